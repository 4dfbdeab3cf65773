"""Metrics travel as sums and counts and are divided once, over all workers together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from afa_dist.distributed import World


class Meter:
    """Adds (sum, count) pairs on the device and divides them when asked."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._sums: dict[str, torch.Tensor] = {}
        self._counts: dict[str, float] = {}

    def add(self, sums: Mapping[str, tuple[torch.Tensor, int]]) -> None:
        for name, (value, count) in sums.items():
            value = value.detach().double()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + count

    def take(self) -> dict[str, float]:
        """The means over all workers since the last call; every worker must call this, with the same names."""
        if not self._sums:
            return {}
        names = sorted(self._sums)
        table = torch.stack([torch.stack([self._sums[n], self._sums[n].new_tensor(self._counts[n])]) for n in names])
        self._world.sum_(table)
        self._sums, self._counts = {}, {}
        return {name: (total / count).item() for name, (total, count) in zip(names, table, strict=True)}

    def state(self) -> dict[str, Any]:
        """What every worker has added since the last `take`, for a checkpoint (JSON); every worker must call this."""
        names = sorted(self._sums)
        if not names:
            return {}
        own = torch.stack([self._sums[name] for name in names])
        table = torch.zeros(self._world.size, len(names), dtype=own.dtype, device=own.device)
        table[self._world.rank] = own
        sums = self._world.sum_(table).tolist()
        return {"names": names, "counts": [self._counts[name] for name in names], "sums": sums}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`: each worker with its own part, or the main one with all if their number has changed."""
        self._sums, self._counts = {}, {}
        if not state:
            return
        device = self._world.device
        parts = torch.tensor(state["sums"], dtype=torch.float64, device=device)
        counts = state["counts"]
        if len(parts) != self._world.size:
            # Counts are those of one worker of the earlier number; all together saw the same images.
            counts = [count * len(parts) / self._world.size for count in counts]
            parts = torch.stack([parts.sum(dim=0), *torch.zeros(self._world.size - 1, parts.shape[1]).to(parts)])
        self._sums = dict(zip(state["names"], parts[self._world.rank], strict=True))
        self._counts = dict(zip(state["names"], counts, strict=True))
