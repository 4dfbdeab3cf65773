"""One call of Ray Train: where it keeps its books, that it can be interrupted, and in what words it failed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import ray
from ray import train as ray_train
from ray.train.torch import TorchTrainer

from afa_dist.address import below, is_address
from afa_dist.config import TrainingRun
from afa_dist.errors import TrainingError
from afa_dist.training.mirror import UNANSWERED, Mirror, words
from afa_dist.training.run_dir import RunDirectory

_GONE = (ray.exceptions.RayActorError, ray.exceptions.ActorUnavailableError)


def storage_of(run: TrainingRun, directory: RunDirectory) -> dict[str, Any]:
    """Where Ray keeps its books: in the run directory."""
    if not is_address(run.runs_dir):
        return {"storage_path": str(directory.path)}
    try:
        mirror = Mirror(below(run.runs_dir, run.name))
    except UNANSWERED as error:
        raise TrainingError(f"{directory.place} cannot be used: {words(error)}") from error
    return {"storage_path": mirror.root, "storage_filesystem": mirror.filesystem}


def fit_interruptibly(trainer: TorchTrainer, meanwhile: Callable[[], None]) -> dict[str, Any]:
    """`trainer.fit()` in a thread: in the main one Ray would take over Ctrl-C, and keep it after the fit.

    meanwhile: called a few times a second in this thread.
    """
    box: dict[str, Any] = {}

    def target() -> None:
        try:
            box["result"] = trainer.fit().return_value
        except BaseException as error:
            box["error"] = error

    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.2)
        meanwhile()
    if "error" in box:
        raise box["error"]
    return box["result"] or {"failure": "the workers ended without a result"}


def reason_of(error: BaseException, troubles: list[str]) -> str:
    """Why a group broke: in the words of its workers, if they could leave any."""
    failures = error.worker_failures if isinstance(error, ray_train.WorkerGroupError) else {}
    gone = sorted(rank for rank, failure in failures.items() if isinstance(failure, _GONE))
    if gone and not troubles:
        return f"worker {', '.join(map(str, gone))} is gone: its process or its node ended"
    lines = [line for line in str(error).splitlines() if line.strip()]
    return (troubles or [lines[-1].strip() if lines else type(error).__name__])[-1]
