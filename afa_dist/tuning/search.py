"""The course of a search: which trial comes next, what becomes of what trials tell, and when it is over.

It knows nothing of processes. Everything that happens is written to the trial's file first, so that a search which is
killed at any moment goes on from there: what had ended stays ended, what was running is run on.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

from afa_dist.config.tune import TuneConfig
from afa_dist.tuning.front import front_of, hypervolume
from afa_dist.tuning.parameters import Params, Range, Space
from afa_dist.tuning.pruning import Rungs
from afa_dist.tuning.record import FAILED, FINISHED, PASSED, PRUNED, RUNNING, Trial, TrialStore, ended, finished, point_of
from afa_dist.tuning.sampling import propose

OVER_BUDGET = "budget_hours"


@dataclasses.dataclass
class Search:
    """seconds_before: of searching in earlier starts. seed: of the proposals.

    refusal: why options cannot be tried, or an empty text; combinations of allowed values can still be wrong together.
    """

    config: TuneConfig
    space: Space
    store: TrialStore
    rungs: Rungs
    seed: int
    refusal: Callable[[Params, str], str] = lambda params, name: ""
    seconds_before: float = 0.0
    on_change: Callable[[Trial], None] = lambda trial: None
    trials: list[Trial] = dataclasses.field(init=False)
    stopping: str = ""
    """Why no trial is begun any more, and those that run are stopped."""

    def __post_init__(self) -> None:
        self.trials = self.store.load()
        self._waiting = [trial for trial in self.trials if trial.state == RUNNING]
        """Begun in an earlier start, and not yet in this one."""
        self._began = time.monotonic()
        # A start that was killed could not say how long it had been.
        self.seconds_before = max([self.seconds_before, *(trial.ended_at for trial in self.trials)])
        self._since: dict[int, float] = {}
        """When the trials that run now were begun, on the search's clock."""

    @property
    def seconds(self) -> float:
        """Time of searching, earlier starts included."""
        return self.seconds_before + time.monotonic() - self._began

    @property
    def over_budget(self) -> bool:
        return 0 < self.config.budget_hours * 3600 <= self.seconds

    @property
    def running(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.number in self._since]

    @property
    def left(self) -> int:
        """How many trials are still to be begun or continued."""
        return max(0, self.total - len(self.trials)) + len(self._waiting)

    @property
    def total(self) -> int:
        """How many trials it is to have."""
        return self.config.max_trials

    @property
    def waits(self) -> bool:
        """Whether there may be a next trial later, although there is none now."""
        return False

    def next(self) -> Trial | None:
        """The trial to run now; None where there is none, for good unless the search `waits`."""
        if self.over_budget and not self.stopping:
            self.stopping = OVER_BUDGET
        if self.stopping:
            return None
        if self._waiting:
            return self._begin(self._waiting.pop(0))
        while len(self.trials) < self.total:
            trial = self._propose()
            if trial is None:
                return None
            self.trials.append(trial)
            if why := self.refusal(trial.params, trial.name):
                self._end(trial, FAILED, f"these options do not go together: {why}")
                continue
            return self._begin(trial)
        return None

    def _propose(self) -> Trial | None:
        """A new trial; None where there is none, or not yet (`waits`)."""
        proposal = propose(self.config.search, self.space, self.seed, self.trials)
        if proposal is None:
            return None
        return Trial(number=len(self.trials), params=self._shortened(proposal[0]), memory=proposal[1])

    def measured(self, number: int, progress: float, epochs: float, point: tuple[float, float], measure: str = "") -> str:
        """Take in a measurement of a trial; returns why it should end, or an empty text.

        measure: in which stage it was made, and how; only equal ones are compared.
        """
        trial = self.trials[number]
        if trial.state != RUNNING:
            return trial.reason or "it has ended"
        trial.epochs = max(trial.epochs, epochs)
        rung = self.rungs.reached(trial, progress)
        if rung is not None:
            trial.rungs[rung], trial.measures[rung] = point, measure
        elif trial.reason:
            return trial.reason  # told before, and not heard
        # Of two trials the one that was compared first is not spared: what comes later may beat it where it was.
        known = rung if rung is not None or self.rungs.config.rule == "asha" else max(trial.rungs, default=None)
        why = self.rungs.verdict(trial, known, self.trials) if known is not None else ""
        trial.reason = why
        if rung is not None or why:
            self.store.save(trial)
        return why

    def finish(self, number: int, clean_acc: float, robust_acc: float, facts: Mapping[str, Any]) -> None:
        """A trial came to its end."""
        self._reach(number, FINISHED, clean_acc, robust_acc, facts)

    def prune(self, number: int, facts: Mapping[str, Any]) -> None:
        """A trial stopped, as it had been told to."""
        trial = self.trials[number]
        trial.seconds, trial.epochs = facts["seconds"], facts["epochs"]
        self._end(trial, PRUNED, trial.reason)

    def pass_on(self, number: int, clean_acc: float, robust_acc: float, facts: Mapping[str, Any]) -> None:
        """A member of a population came to the end of its generation."""
        self._reach(number, PASSED, clean_acc, robust_acc, facts)

    def fail(self, number: int, reason: str) -> None:
        """A trial cannot go on."""
        self._end(self.trials[number], FAILED, reason)

    def pause(self, number: int) -> None:
        """A trial stopped because the search does; the next start continues it."""
        self._since.pop(number, None)
        self.store.save(self.trials[number])

    def state(self) -> dict[str, Any]:
        """What a person wants to see of it: counts, and how large the front is."""
        points = [point_of(trial) for trial in finished(self.trials)]
        counts = {name: sum(t.state == name for t in self.trials) for name in (FINISHED, PRUNED, FAILED)}
        return {
            **counts,
            "running": len(self._since),
            "front": len({points[place] for place in front_of(points)}),
            "hypervolume": hypervolume(points),
        }

    def _begin(self, trial: Trial) -> Trial:
        trial.begun += 1
        self._since[trial.number] = self.seconds
        self.store.save(trial)
        self.on_change(trial)
        return trial

    def _reach(self, number: int, state: str, clean_acc: float, robust_acc: float, facts: Mapping[str, Any]) -> None:
        trial = self.trials[number]
        trial.clean_acc, trial.robust_acc = clean_acc, robust_acc
        trial.seconds, trial.epochs = facts["seconds"], facts["epochs"]
        self._end(trial, state, "")

    def _end(self, trial: Trial, state: str, reason: str) -> None:
        if trial.state != RUNNING:
            return  # told twice
        trial.state, trial.reason = state, reason
        trial.order = len(ended(self.trials))
        trial.ended_at = round(self.seconds, 2)
        trial.wall = round(self.seconds - self._since.pop(trial.number, self.seconds), 2)
        self.store.save(trial)
        self.on_change(trial)

    def _shortened(self, params: Params) -> Params:
        """Numbers with four digits: as good, and a person can type them."""
        short: Params = {}
        for key, value in params.items():
            parameter = self.space[key]
            if isinstance(value, float) and isinstance(parameter, Range) and not parameter.step:
                value = min(max(float(f"{value:.4g}"), parameter.low), parameter.high)
            short[key] = value
        return short
