"""Working off a plan: whoever computes, in this process or elsewhere, does one unit after another and is watched."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch

from afa_dist.config.attack_names import GRADIENT
from afa_dist.errors import Stopped
from afa_dist.evaluation.evaluator import ShardEvaluator
from afa_dist.evaluation.outcome import Outcome
from afa_dist.evaluation.plan import Plan, Unit
from afa_dist.evaluation.probes import probe, recheck

CALLS: dict[str, Callable[..., Any]] = {"evaluate": ShardEvaluator.evaluate, "probe": probe, "recheck": recheck}
"""What an executor can be asked for, by name; each takes the evaluator first."""


@dataclasses.dataclass(frozen=True)
class Progress:
    """what: words for it. done: share of the work, 0 to 1. seconds_left: about; None before there is anything to go by."""

    what: str
    done: float
    seconds_left: float | None


TICK_SECONDS = 0.2
"""Least time between two looks around within an attack."""

OnProgress = Callable[[Progress], None]

Stop = Callable[[], str]
"""Gives the reason to end, or an empty text."""


class Executor(Protocol):
    """Computes calls of `CALLS`, as many at once as it likes."""

    @property
    def free(self) -> int:
        """How many more calls may be begun now."""

    def begin(self, key: Any, call: str, *args: Any) -> None:
        """Begin a call; `key` comes back with its result."""

    def finished(self, tick: Callable[[], None]) -> Iterable[tuple[Any, Any]]:
        """Keys and results of calls that have ended; waits for a while if none has. tick: called now and then meanwhile;
        what it raises ends the waiting."""

    def cancel(self) -> None:
        """Give up what was begun."""

    def busy_seconds(self) -> float:
        """How long the calls that are not finished have run, together."""

    def passes(self) -> float:
        """Passes of images that the call in progress has made, one with its gradient counted as three; 0 if not known."""


def work_off(
    plan: Plan,
    executor: Executor,
    commit: Callable[[Outcome], None],
    on_progress: OnProgress,
    stop: Stop,
) -> None:
    """Do all units of the plan; each outcome is committed before the next unit of its shard begins.

    Raises:
        Stopped: `stop` gave a reason; what was committed stays.
    """
    running: set[Unit] = set()

    def tick() -> None:
        if reason := stop():
            begun = sorted({plan.name(unit) for unit in running})
            raise Stopped(reason, f"what was begun of {', '.join(begun)} begins anew" if begun else "")
        on_progress(_progress(plan, running, executor))

    try:
        tick()
        while True:
            while executor.free and (unit := plan.take()):
                executor.begin(unit, "evaluate", plan.start(unit), plan.name(unit), plan.standing[unit.shard])
                running.add(unit)
            if not running:
                return
            for unit, outcome in executor.finished(tick):
                commit(outcome)
                plan.done(unit, outcome)
                running.remove(unit)
            tick()
    except BaseException:
        executor.cancel()
        raise


def call_all(calls: Iterable[tuple[Any, ...]], executor: Executor, tick: Callable[[], None]) -> list[Any]:
    """Results of calls (name and arguments each), in their order."""
    waiting = enumerate(calls)  # their arguments may be large: made when they are needed
    results: dict[int, Any] = {}
    begun = 0
    try:
        while True:
            while executor.free and (call := next(waiting, None)):
                number, (name, *args) = call
                executor.begin(number, name, *args)
                begun += 1
            if len(results) == begun:
                break
            results.update(executor.finished(tick))
    except BaseException:
        executor.cancel()
        raise
    return [results[number] for number in range(begun)]


def _progress(plan: Plan, running: set[Unit], executor: Executor) -> Progress:
    done, left = plan.work()
    busy, passes = executor.busy_seconds(), executor.passes()
    known = done > 0 or plan.finished
    if passes and len(running) == 1:
        # The attack itself tells how far it is; its speed was guessed from others before.
        (unit,) = running
        share = min(0.99, passes / max(1.0, plan.passes(unit)))
        left += busy / share - busy - plan.seconds(unit)
    left = max(0.0, left - (0.0 if passes else busy))
    share = (done + busy) / (done + busy + left) if known and done + busy + left > 0 else 0.0
    workers = max(1, len(running))
    return Progress(plan.progress(min(running, default=None)), share, left / workers if known else None)


class InProcess:
    """The executor that computes here, one call at a time."""

    def __init__(self, evaluator: ShardEvaluator) -> None:
        self.evaluator = evaluator
        self._call: tuple[Any, str, tuple[Any, ...]] | None = None
        self._began = 0.0
        self._ticked = 0.0
        self._passes = 0.0

    @property
    def free(self) -> int:
        return 0 if self._call else 1

    def begin(self, key: Any, call: str, *args: Any) -> None:
        self._call = (key, call, args)

    def finished(self, tick: Callable[[], None]) -> Iterable[tuple[Any, Any]]:
        assert self._call is not None
        key, call, args = self._call
        self._began, self._passes = time.monotonic(), 0.0

        def look(_: object, args: tuple[torch.Tensor]) -> None:
            self._passes += len(args[0]) * (GRADIENT if torch.is_grad_enabled() else 1)
            if time.monotonic() - self._ticked > TICK_SECONDS:
                self._ticked = time.monotonic()
                tick()

        passes = self.evaluator.net.register_forward_pre_hook(look)  # an attack may take hours
        try:
            result = CALLS[call](self.evaluator, *args)
        finally:
            passes.remove()
            self._call = None
        return [(key, result)]

    def cancel(self) -> None:
        self._call = None

    def busy_seconds(self) -> float:
        return time.monotonic() - self._began if self._call else 0.0

    def passes(self) -> float:
        return self._passes if self._call else 0.0
