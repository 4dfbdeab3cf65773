"""Metrics travel as sums and counts and are divided once, over all workers together."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from afa_dist.distributed import World


class Meter:
    """Adds (sum, count) pairs on the device and divides them when asked."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._sums: dict[str, torch.Tensor] = {}
        self._counts: dict[str, int] = {}

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
