"""Which checkpoint is the best, and for how long there has been none that was better."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any


@dataclasses.dataclass
class Best:
    """The best validation so far: its step and what was measured."""

    step: int
    metrics: dict[str, float]

    def compare(self, metrics: Mapping[str, float], by: Sequence[str]) -> int:
        """1 if `metrics` is better than the best so far, 0 if it is as good, -1 if it is worse.

        by: names of what counts, the first most; of those that end in "loss" less is better.
        """
        signs = [(name, -1 if name.endswith("loss") else 1) for name in by if name in metrics]
        new, old = ([sign * values[name] for name, sign in signs] for values in (metrics, self.metrics))
        return (new > old) - (new < old)


@dataclasses.dataclass
class Selection:
    """The last validation, the best ones, and how many there were since one was better than all before.

    by: see `Best.compare`. keep: how many of the best are kept.
    """

    by: tuple[str, ...]
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
        self.stale = 0 if self.best is None or self.best.compare(metrics, self.by) > 0 else self.stale + 1
        # Of equals the later one comes first: it has seen the lower learning rate.
        place = next((index for index, other in enumerate(self.top) if other.compare(metrics, self.by) >= 0), len(self.top))
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
