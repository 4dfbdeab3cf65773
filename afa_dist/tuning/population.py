"""Population based training (Jaderberg et al. 2017, arXiv 1711.09846): a search for schedules instead of values.

All members train side by side; every few epochs the worst go on from the weights of the best, with options changed a
little. A trial is one member between two such moments, so each has a run directory of its own, and a search that was killed
goes on like any other. Members wait for each other: who takes over from whom does not depend on who was faster.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

from afa_dist.config.tune import PopulationConfig
from afa_dist.distributed import derive_seed
from afa_dist.tuning.front import Point, front_of
from afa_dist.tuning.parameters import Choice, Parameter, Params, Range, Value
from afa_dist.tuning.record import FAILED, PASSED, Trial
from afa_dist.tuning.sampling import count_of, propose, values_of
from afa_dist.tuning.search import Search

FACTORS = (0.8, 1.25)
"""What numbers are multiplied by: the paper's."""


@dataclasses.dataclass
class Population(Search):
    """A search whose trials are members of generations. epochs: of a whole training."""

    epochs: int = 1

    @property
    def population(self) -> PopulationConfig:
        return self.config.population

    @property
    def generations(self) -> int:
        return math.ceil(self.epochs / self.population.interval)

    @property
    def total(self) -> int:
        return self.population.size * self.generations

    @property
    def waits(self) -> bool:
        """Whether there may be a next trial later: members that run decide who goes on from whom."""
        return not self.stopping and bool(self.running) and len(self.trials) < self.total

    def _propose(self) -> Trial | None:
        number, size = len(self.trials), self.population.size
        generation, member = divmod(number, size)
        if generation == 0:
            proposal = propose("random", self.space, self.seed, self.trials)
            return self._member(number, 0, proposal[0] if proposal else self._any_of_first(number), None)
        before = self.trials[(generation - 1) * size : generation * size]
        if any(trial.order < 0 for trial in before):
            return None
        parents = self._parents(before, generation)
        if parents is None:
            return None
        parent = parents[member]
        params = parent.params if parent is before[member] else self._changed(parent.params, number)
        return self._member(number, generation, params, parent)

    def _member(self, number: int, generation: int, params: Params, parent: Trial | None) -> Trial:
        until = (generation + 1) * self.population.interval
        memory = {"parent": parent.number if parent else None, "until": until if until < self.epochs else 0}
        return Trial(number=number, params=params, memory=memory)

    def _any_of_first(self, number: int) -> Params:
        """A space may have fewer combinations than there are members."""
        return self.trials[number % int(count_of(self.space))].params

    def _parents(self, before: Sequence[Trial], generation: int) -> list[Trial] | None:
        """For each member whose weights it goes on from; None where all are lost."""
        alive = [trial for trial in before if trial.state == PASSED]
        if not alive:
            return None
        ranked = ranked_by_fronts([_point(trial) for trial in alive], self.rungs.score)
        count = max(1, round(self.population.quantile * len(before)))
        donors = [alive[place] for place in ranked[:count]]
        # Never more than half: the best must not give way to each other.
        lost = [trial for trial in before if trial.state == FAILED]
        worst = [alive[place] for place in ranked[max(count, len(alive) - count) :]]
        draw = random.Random(derive_seed("donors", self.seed, generation))  # noqa: S311 - no secret
        return [draw.choice(donors) if trial in lost or trial in worst else trial for trial in before]

    def _changed(self, params: Params, number: int) -> Params:
        draw = random.Random(derive_seed("changes", self.seed, number))  # noqa: S311 - no secret
        fresh = propose("random", self.space, self.seed, self.trials)
        changed: Params = {}
        for key, parameter in self.space.items():
            if fresh and draw.random() < self.population.resample:
                changed[key] = fresh[0][key]
            else:
                changed[key] = neighbour(params[key], parameter, draw)
        return self._shortened(changed)


def neighbour(value: Value, parameter: Parameter, draw: random.Random) -> Value:
    """A value near `value`: a number times one of `FACTORS`, within its range, or the choice before or after it."""
    up = draw.random() < 0.5
    if isinstance(parameter, Choice):
        place = parameter.values.index(value) + (1 if up else -1)
        return parameter.values[min(max(place, 0), len(parameter.values) - 1)]
    assert isinstance(parameter, Range) and isinstance(value, int | float)
    moved = value * FACTORS[up]
    values: list[Any] = values_of(parameter)
    if values:
        place = min(range(len(values)), key=lambda k: abs(values[k] - moved))
        if values[place] == value:
            place += 1 if up else -1
        return values[min(max(place, 0), len(values) - 1)]
    moved = min(max(moved, parameter.low), parameter.high)
    return round(moved) if parameter.whole else moved


def ranked_by_fronts(points: Sequence[Point], score: Callable[[Point], float]) -> list[int]:
    """Places in `points`, the best first: those on the front, then those on the front without these, and so on; within each
    by one number."""
    left, ranked = list(range(len(points))), list[int]()
    while left:
        front = [left[place] for place in front_of([points[i] for i in left])]
        ranked += sorted(front, key=lambda i: (-score(points[i]), i))
        left = [i for i in left if i not in front]
    return ranked


def _point(trial: Trial) -> Point:
    assert trial.clean_acc is not None and trial.robust_acc is not None
    return trial.clean_acc, trial.robust_acc


def lineage(trial: Trial, trials: Sequence[Trial]) -> list[Trial]:
    """The trials whose training is in `trial`, the first one first, itself last."""
    line = [trial]
    while (parent := line[0].memory.get("parent")) is not None:
        line.insert(0, trials[parent])
    return line
