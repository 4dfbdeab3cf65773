"""Which checkpoint is the best, and for how long there has been none that was better."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass
class Best:
    """The best validation so far: its step and its accuracies."""

    step: int
    metrics: dict[str, float]

    def compare(self, metrics: Mapping[str, float], by: str) -> int:
        """1 if `metrics` is better than the best so far, 0 if it is as good, -1 if it is worse."""
        other = "clean_acc" if by == "robust_acc" else "robust_acc"
        keys = [name for name in (by, other) if name in metrics]
        new, old = [metrics[name] for name in keys], [self.metrics[name] for name in keys]
        return (new > old) - (new < old)


@dataclasses.dataclass
class Selection:
    """The last validation, the best ones, and how many there were since one was better than all before.

    robust: choose by robust accuracy where it was measured, else by clean accuracy. keep: how many of the best are kept.
    """

    robust: bool
    keep: int = 1
    top: list[Best] = dataclasses.field(default_factory=list)
    """The best first, at most `keep`."""
    last: dict[str, float] = dataclasses.field(default_factory=dict)
    stale: int = 0

    @property
    def best(self) -> Best | None:
        return self.top[0] if self.top else None

    def take(self, step: int, metrics: dict[str, float]) -> bool:
        """Take in a validation; returns whether it is among those to keep."""
        self.last = metrics
        by = "robust_acc" if self.robust and "robust_acc" in metrics else "clean_acc"
        self.stale = 0 if self.best is None or self.best.compare(metrics, by) > 0 else self.stale + 1
        # Of equals the later one comes first: it has seen the lower learning rate.
        place = next((index for index, other in enumerate(self.top) if other.compare(metrics, by) >= 0), len(self.top))
        self.top.insert(place, Best(step, metrics))
        del self.top[self.keep :]
        return place < self.keep

    def state(self) -> dict[str, Any]:
        """As JSON, for a checkpoint."""
        top = [dataclasses.asdict(entry) for entry in self.top]
        return {"best": top[0] if top else None, "top": top, "last": self.last, "stale": self.stale}

    def load(self, state: Mapping[str, Any]) -> None:
        # "top" is younger than the first checkpoints of this format.
        top = state.get("top", [state["best"]] if state["best"] else [])
        self.top = [Best(**entry) for entry in top[: self.keep]]
        self.last = dict(state["last"])
        self.stale = state["stale"]
