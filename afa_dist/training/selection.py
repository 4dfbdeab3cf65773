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
    """The last validation, the best one, and how many there were since one was better than all before.

    robust: choose by robust accuracy where it was measured, else by clean accuracy.
    """

    robust: bool
    best: Best | None = None
    last: dict[str, float] = dataclasses.field(default_factory=dict)
    stale: int = 0

    def take(self, step: int, metrics: dict[str, float]) -> bool:
        """Take in a validation; returns whether it is the best so far."""
        self.last = metrics
        by = "robust_acc" if self.robust and "robust_acc" in metrics else "clean_acc"
        change = 1 if self.best is None else self.best.compare(metrics, by)
        self.stale = 0 if change > 0 else self.stale + 1
        # Of equals the later one is kept: it has seen the lower learning rate.
        if change >= 0:
            self.best = Best(step, metrics)
        return change >= 0

    def state(self) -> dict[str, Any]:
        """As JSON, for a checkpoint."""
        best = dataclasses.asdict(self.best) if self.best else None
        return {"best": best, "last": self.last, "stale": self.stale}

    def load(self, state: Mapping[str, Any]) -> None:
        self.best = Best(**state["best"]) if state["best"] else None
        self.last = dict(state["last"])
        self.stale = state["stale"]
