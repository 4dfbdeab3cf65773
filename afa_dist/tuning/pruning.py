"""Which trials are not worth their end: comparisons at rungs, the same share of training for all trials.

Legend: a rung's points are (clean, robust) accuracies on held-out images, by the number of the trial.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from afa_dist.config.tune import PruningConfig
from afa_dist.tuning.front import Point, dominates
from afa_dist.tuning.record import FAILED, Trial

MEASURES = {"epochs": "epochs", "passes": "forward passes an image"}


@dataclasses.dataclass(frozen=True)
class Rungs:
    """rungs: where trials are compared, in `config.unit`, ascending; the same for all trials of a search."""

    config: PruningConfig
    rungs: tuple[float, ...]

    @classmethod
    def of(cls, config: PruningConfig, total: float) -> Rungs:
        """total: epochs or passes of a trial whose length is the recipe's."""
        if config.rule == "none":
            return cls(config, ())
        whole = [share * total for share in config.rungs]
        return cls(config, tuple(dict.fromkeys(max(1.0, round(rung)) for rung in whole)))

    def reached(self, trial: Trial, progress: float) -> int | None:
        """The rung that a measurement at `progress` is the first one at, if any: of several passed at once, the last."""
        passed = [number for number, rung in enumerate(self.rungs) if progress >= rung - 1e-9]
        return passed[-1] if passed and passed[-1] not in trial.rungs else None

    def verdict(self, trial: Trial, rung: int, others: Sequence[Trial]) -> str:
        """Why `trial`, just measured at `rung`, should end; empty if it should go on."""
        points = {
            other.number: other.rungs[rung]
            for other in others
            if rung in other.rungs
            and other is not trial
            and other.state != FAILED  # what diverges later has proved nothing
            and other.measures.get(rung) == trial.measures.get(rung)
        }
        own = trial.rungs[rung]
        if self.config.rule == "pareto":
            return self._dominated(own, points, rung)
        if self.config.rule == "asha":
            return self._outranked(own, points, rung)
        return ""

    def _dominated(self, own: Point, points: Mapping[int, Point], rung: int) -> str:
        better = [number for number, point in points.items() if dominates(point, own, self.config.margin)]
        if not better:
            return ""
        best = max(better, key=lambda number: (sum(points[number]), -number))
        return (
            f"at {self.words(rung)} trial {best:04} had {_accuracies(points[best])}, this one {_accuracies(own)}, at least "
            f"{100 * self.config.margin:g} points less in both"
        )

    def _outranked(self, own: Point, points: Mapping[int, Point], rung: int) -> str:
        """Asynchronous successive halving: go on only among the best 1/reduction of those seen at this rung."""
        scores = sorted([self.score(own), *map(self.score, points.values())], reverse=True)
        last = scores[max(1, math.floor(len(scores) / self.config.reduction)) - 1]
        if self.score(own) >= last:
            return ""
        return f"at {self.words(rung)} it was not among the best 1/{self.config.reduction} by {self.score_words()}"

    def score(self, point: Point) -> float:
        clean, robust = point
        return (1 - self.config.weight) * clean + self.config.weight * robust

    def score_words(self) -> str:
        return f"{1 - self.config.weight:g} x clean + {self.config.weight:g} x robust"

    def words(self, rung: int) -> str:
        return f"{self.rungs[rung]:g} {MEASURES[self.config.unit]}"

    def describe(self) -> str:
        """The rule, for people."""
        if not self.rungs:
            return "never"
        where = f"{', '.join(f'{rung:g}' for rung in self.rungs)} {MEASURES[self.config.unit]}"
        if self.config.rule == "pareto":
            return f"at {where}, if another trial is better by {100 * self.config.margin:g} points in both accuracies"
        return (
            f"at {where}, by successive halving (ASHA, 1 of {self.config.reduction}) on {self.score_words()}; a single "
            "number, so parts of the front may be lost"
        )


def _accuracies(point: Point) -> str:
    return f"{100 * point[0]:.1f} / {100 * point[1]:.1f} %"
