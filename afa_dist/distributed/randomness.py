"""Random numbers that do not depend on how many workers share a batch.

A global batch is cut into slices of `SLICE` samples. Each slice draws from a generator of its own, seeded by a key
(what the numbers are for, seed, step, ...) and the position of the slice in the global batch. Whichever rank holds
the slice draws the same numbers. Numbers from a CPU and from a GPU differ, as torch's generators do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch

SLICE = 16
"""Samples that share one generator. Per-worker batches are multiples of it when there is more than one worker."""


def derive_seed(*key: int | str) -> int:
    """A 63-bit seed from `key`; equal keys give equal seeds, on every machine and in every process."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in key)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


class SlicedRandom:
    """Draws for the samples start .. start+count-1 of a global batch (shapes: (count, *tail)).

    Successive draws from one object differ; two objects with equal key and position repeat each other.
    """

    def __init__(self, *key: int | str, start: int, count: int, device: torch.device | str = "cpu") -> None:
        assert start % SLICE == 0, f"start {start} is not a multiple of {SLICE}"
        self.count = count
        self.device = torch.device(device)
        self._generators = [
            torch.Generator(self.device).manual_seed(derive_seed(*key, index))
            for index in range(start // SLICE, -(-(start + count) // SLICE))
        ]

    def _draw(self, make: Callable[[torch.Generator], torch.Tensor]) -> torch.Tensor:
        # A last slice that is not full is drawn full and cut, so its numbers do not depend on its length.
        return torch.cat([make(generator) for generator in self._generators])[: self.count]

    def uniform(self, *tail: int, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
        """Uniform in [low, high), float32."""
        unit = self._draw(lambda g: torch.rand(SLICE, *tail, generator=g, device=self.device))
        return unit * (high - low) + low

    def normal(self, *tail: int) -> torch.Tensor:
        """Standard normal, float32."""
        return self._draw(lambda g: torch.randn(SLICE, *tail, generator=g, device=self.device))

    def integers(self, low: int, high: int, *tail: int) -> torch.Tensor:
        """Uniform whole numbers in [low, high), int64."""
        return self._draw(lambda g: torch.randint(low, high, (SLICE, *tail), generator=g, device=self.device))
