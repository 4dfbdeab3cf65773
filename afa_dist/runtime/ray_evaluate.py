"""Units of an evaluation as Ray tasks: one that is lost with its node is begun again on another."""

from __future__ import annotations

import dataclasses
import secrets
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import ray
import torch

from afa_dist.config import EvaluateRun
from afa_dist.data.catalogue import load_part
from afa_dist.errors import TrainingError, UserError
from afa_dist.evaluation.evaluator import ShardEvaluator
from afa_dist.evaluation.work import CALLS
from afa_dist.runtime.evaluation_checks import Prepared
from afa_dist.runtime.paths import absolute
from afa_dist.runtime.placement import Placement
from afa_dist.runtime.sharing import SharedImages, same_images, share
from afa_dist.training.execution import keep_freed_memory

LOOK_SECONDS = 0.5
"""How long to wait for a task before looking around."""


@dataclasses.dataclass(frozen=True)
class _Ingredients:
    """What a worker makes its evaluator from, which it keeps for the next task. Small: the rest is in the object store.

    import_from: where the driver finds modules that the network may be made of.
    """

    token: str
    run: EvaluateRun
    net: ray.ObjectRef[Any]
    images: SharedImages | None
    fingerprint: str
    threads: int
    device: str
    import_from: str


_evaluators: dict[str, ShardEvaluator] = {}


def _evaluator(ingredients: _Ingredients) -> ShardEvaluator:
    if ingredients.token not in _evaluators:
        torch.set_num_threads(ingredients.threads)
        keep_freed_memory()
        if ingredients.import_from not in sys.path:
            sys.path.append(ingredients.import_from)
        run = ingredients.run
        if ingredients.images is not None:
            test = ingredients.images.get()["test"]
        else:
            test = same_images(load_part(run.data, run.part), ingredients.fingerprint, run.data)
        _evaluators.clear()  # of an evaluation before this one
        _evaluators[ingredients.token] = ShardEvaluator(run, ray.get(ingredients.net), test, ingredients.device)
    return _evaluators[ingredients.token]


def _call(ingredients: _Ingredients, name: str, args: tuple[Any, ...]) -> Any:
    return CALLS[name](_evaluator(ingredients), *args)


class OnRay:
    """The executor whose calls are Ray tasks, at most `placement.workers` (of a range, its upper end) at once."""

    def __init__(self, run: EvaluateRun, prepared: Prepared, placement: Placement) -> None:
        self.ingredients = _Ingredients(
            token=secrets.token_hex(8),
            run=absolute(run),
            net=ray.put(prepared.subject.net),
            images=share({"test": prepared.test}),
            fingerprint=prepared.test.fingerprint(),
            threads=placement.threads,
            device="cuda" if placement.gpu else "cpu",
            import_from=str(Path.cwd()),
        )
        self._task = ray.remote(_call).options(
            num_cpus=placement.threads,
            num_gpus=run.gpu_share if placement.gpu else 0,
            max_retries=run.scaling.max_failures,
        )
        self._most = max(placement.workers, run.scaling.most)  # nodes may join
        self._running: dict[ray.ObjectRef[Any], tuple[Any, float]] = {}

    @property
    def free(self) -> int:
        return self._most - len(self._running)

    def begin(self, key: Any, call: str, *args: Any) -> None:
        self._running[self._task.remote(self.ingredients, call, args)] = (key, time.monotonic())

    def finished(self, tick: Callable[[], None]) -> Iterable[tuple[Any, Any]]:
        ready: list[ray.ObjectRef[Any]] = []
        while not ready:
            ready, _ = ray.wait(list(self._running), num_returns=1, timeout=LOOK_SECONDS)
            tick()
        for reference in ready:
            key, _ = self._running.pop(reference)
            yield key, _result(reference)

    def cancel(self) -> None:
        for reference in self._running:
            ray.cancel(reference, force=True)
        self._running.clear()

    def busy_seconds(self) -> float:
        return sum(time.monotonic() - began for _, began in self._running.values())

    def passes(self) -> float:
        return 0.0


def _result(reference: ray.ObjectRef[Any]) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError | TrainingError):
            raise error.cause from error
        raise
    except ray.exceptions.RayError as error:  # the task was lost with its worker, more often than max_failures
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        what = f"a worker was lost: {reason}; what was measured is kept, the same command continues"
        raise TrainingError(what) from error
