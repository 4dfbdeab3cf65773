"""Calls as Ray tasks: one that is lost with its node is begun again on another."""

from __future__ import annotations

import dataclasses
import secrets
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

import ray
import torch

from afa_dist.errors import TrainingError, UserError
from afa_dist.evaluation.executor import Calls
from afa_dist.memory import give_back_freed_memory, keep_freed_memory
from afa_dist.runtime.placement import Placement

LOOK_SECONDS = 0.5
"""How long to wait for a task before looking around."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ingredients(ABC):
    """What a worker makes its subject from, which it keeps for the next task. Small: the rest is in the object store.

    token: equal for the tasks of one start, and for no others. import_from: where the driver finds modules that networks
    may be made of. keeps_memory: whether what a task frees serves the next one; see `memory.py`.
    """

    keeps_memory: ClassVar[bool] = True

    threads: int
    device: str
    token: str = dataclasses.field(default_factory=lambda: secrets.token_hex(8))
    import_from: str = dataclasses.field(default_factory=lambda: str(Path.cwd()))

    @property
    @abstractmethod
    def calls(self) -> Calls:
        """What the subject can be asked for."""

    @abstractmethod
    def make(self) -> Any:
        """The subject, in a worker."""


_subjects: dict[str, Any] = {}


def _call(ingredients: Ingredients, name: str, args: tuple[Any, ...]) -> Any:
    if ingredients.token not in _subjects:
        torch.set_num_threads(ingredients.threads)
        keep_freed_memory() if ingredients.keeps_memory else give_back_freed_memory()
        if ingredients.import_from not in sys.path:
            sys.path.append(ingredients.import_from)
        _subjects.clear()  # of a job before this one
        _subjects[ingredients.token] = ingredients.make()
    return ingredients.calls[name](_subjects[ingredients.token], *args)


class OnRay:
    """The executor whose calls are Ray tasks, at most `placement.workers` (of a range, its upper end `most`) at once.

    gpu_share: part of a GPU that each takes, where there are GPUs. retries: so often a lost task is begun again.
    """

    def __init__(
        self, ingredients: Ingredients, placement: Placement, *, most: int, gpu_share: float, retries: int
    ) -> None:
        self.ingredients = ingredients
        self._task = ray.remote(_call).options(
            num_cpus=placement.threads, num_gpus=gpu_share if placement.gpu else 0, max_retries=retries
        )
        self._most = max(placement.workers, most)  # nodes may join
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
        what = f"a worker was lost: {reason}; what is finished is kept, the same command continues"
        raise TrainingError(what) from error
