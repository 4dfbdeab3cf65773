"""Random numbers that do not depend on how many workers share a batch.

A global batch is cut into slices of `SLICE` samples. Each slice draws from a generator of its own, seeded by a key
(what the numbers are for, seed, step, ...) and the position of the slice in the global batch. Whichever rank holds
the slice draws the same numbers. Numbers from a CPU and from a GPU differ, as torch's generators do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch

from afa_dist.slicing import SLICE


def derive_seed(*key: int | str) -> int:
    """A 63-bit seed from `key`; equal keys give equal seeds, on every machine and in every process."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in key)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


class SlicedRandom:
    """Draws for the samples start .. start+count-1 of a global batch (shapes: (count, *tail)).

    Successive draws from one object differ; two objects with equal key repeat each other where they overlap.

    keep: draw for these of them alone (0 .. count-1), with the numbers they have among all.
    """

    def __init__(
        self,
        *key: int | str,
        start: int,
        count: int,
        device: torch.device | str = "cpu",
        keep: torch.Tensor | None = None,
    ) -> None:
        self.count = count
        self._keep = keep
        self._skipped = start % SLICE
        self.device = torch.device(device)
        self._generators = [
            torch.Generator(self.device).manual_seed(derive_seed(*key, index))
            for index in range(start // SLICE, -(-(start + count) // SLICE))
        ]

    def _draw(self, make: Callable[[torch.Generator], torch.Tensor]) -> torch.Tensor:
        # Slices that are not full are drawn full and cut, so that numbers do not depend on where a part begins or ends.
        drawn = torch.cat([make(generator) for generator in self._generators])
        drawn = drawn[self._skipped : self._skipped + self.count]
        return drawn if self._keep is None else drawn[self._keep]

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
