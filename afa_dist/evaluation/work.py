"""Working off a plan: whoever computes, in this process or elsewhere, does one unit after another and is watched."""

from __future__ import annotations

from collections.abc import Callable

from afa_dist.errors import Stopped
from afa_dist.evaluation.evaluator import ShardEvaluator
from afa_dist.evaluation.executor import Calls, Executor, OnProgress, Progress, Stop
from afa_dist.evaluation.outcome import Outcome
from afa_dist.evaluation.plan import Plan, Unit
from afa_dist.evaluation.probes import probe, recheck

CALLS: Calls = {"evaluate": ShardEvaluator.evaluate, "probe": probe, "recheck": recheck}


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
