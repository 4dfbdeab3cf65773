"""Training on Ray Train: worker groups, restarts after lost workers. The loop is the one of the in-process twin.

Workers resume from the run directory's own checkpoints, which every node must be able to read; Ray's storage beneath
it holds only Ray's bookkeeping.
"""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from typing import Any

import torch
from ray import train as ray_train
from ray.train.torch import TorchTrainer, get_device

from afa_dist.config import FinetuneRun, TrainingRun
from afa_dist.data.catalogue import load_splits
from afa_dist.distributed import World
from afa_dist.errors import TrainingError, UserError
from afa_dist.runtime.cluster import check_resources, has_gpus
from afa_dist.runtime.placement import Placement
from afa_dist.training.job import train
from afa_dist.training.recorder import OnRow
from afa_dist.training.run_dir import RunDirectory, runs_root

FAILURE = "failure.json"


def fit(run: TrainingRun, directory: RunDirectory, placement: Placement, on_row: OnRow) -> dict[str, Any]:
    """Train on Ray workers and return the run's summary.

    Raises:
        TrainingError: the loop gave up, or more workers were lost than scaling.max_failures.
        UserError: the cluster cannot be reached or has not what was asked for.
    """
    (directory.path / FAILURE).unlink(missing_ok=True)
    gpu = placement.gpu or has_gpus(placement.workers)
    check_resources(placement.workers, placement.threads, gpu)
    run = absolute(run)
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"run": run, "directory": str(directory.path), "threads": placement.threads},
        scaling_config=ray_train.ScalingConfig(
            num_workers=placement.workers,
            use_gpu=gpu,
            resources_per_worker={"CPU": placement.threads, **({"GPU": 1} if gpu else {})},
        ),
        run_config=ray_train.RunConfig(
            name="ray",
            storage_path=str(directory.path),
            failure_config=ray_train.FailureConfig(max_failures=run.scaling.max_failures),
        ),
    )
    with RowTail(directory, on_row):
        try:
            trainer.fit()
        except ray_train.TrainingFailedError as error:
            raise TrainingError(_reason(error, directory, run)) from error
    if failure := directory.read_json(FAILURE):
        raise TrainingError(failure["message"])
    summary = directory.read_json("summary.json")
    if summary is None:
        raise TrainingError(f"the workers ended without a result; their logs are under {directory.path / 'ray'}")
    return summary


def absolute(run: TrainingRun) -> TrainingRun:
    """`run` with paths that mean the same in a worker, whose working directory is another."""
    if run.data.path is not None:
        path = str(Path(run.data.path).expanduser().resolve())
        run = dataclasses.replace(run, data=dataclasses.replace(run.data, path=path))
    if isinstance(run, FinetuneRun) and run.init != "scratch":
        run = dataclasses.replace(run, init=str(runs_root(run.init)))
    return run


def _worker(config: dict[str, Any]) -> None:
    torch.set_num_threads(config["threads"])
    run: TrainingRun = config["run"]
    directory = RunDirectory(Path(config["directory"]))
    try:
        train(run, load_splits(run.data), directory, World.current(get_device()), on_row=lambda row: None)
    except (TrainingError, UserError) as error:
        # Trying again would meet the same end, so the group must not be restarted: leave a note and end normally.
        directory.write_json(FAILURE, {"message": str(error), "rank": ray_train.get_context().get_world_rank()})


def _reason(error: BaseException, directory: RunDirectory, run: TrainingRun) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    last = lines[-1].strip() if lines else type(error).__name__
    return (
        f"training stopped after scaling.max_failures = {run.scaling.max_failures} restarts: {last}. The last checkpoint is "
        f"intact; the same command continues from it. Logs: {directory.path / 'ray'}"
    )


class RowTail(threading.Thread):
    """Hands rows of a growing metrics.jsonl to `on_row`: progress on the driver without talk between processes."""

    def __init__(self, directory: RunDirectory, on_row: OnRow, interval_seconds: float = 0.5) -> None:
        super().__init__(daemon=True)
        self.directory = directory
        self.on_row = on_row
        self.interval_seconds = interval_seconds
        self._ended = threading.Event()
        self._seen = len(directory.metrics())

    def __enter__(self) -> RowTail:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self.join()

    def run(self) -> None:
        while not self._ended.wait(self.interval_seconds):
            self._drain()
        self._drain()

    def _drain(self) -> None:
        rows = self.directory.metrics()
        # After a restart the file is cut back to the last checkpoint and grows again.
        self._seen = min(self._seen, len(rows))
        for row in rows[self._seen :]:
            self.on_row(row)
        self._seen = len(rows)


