"""Training on Ray Train: worker groups, restarts after lost workers. The loop is the one of the in-process twin.

Workers resume from the run directory's own checkpoints, which every node must be able to read; Ray's storage beneath
it holds only Ray's bookkeeping. Images come from the driver where they fit into Ray's object store.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from ray import train as ray_train
from ray.train.torch import TorchTrainer, get_device

from afa_dist.config import TrainingRun
from afa_dist.data.catalogue import DataSplits, load_splits
from afa_dist.distributed import World
from afa_dist.errors import Stopped, TrainingError, UserError
from afa_dist.runtime.paths import absolute
from afa_dist.runtime.placement import Placement
from afa_dist.runtime.sharing import SharedImages, same_images, share
from afa_dist.training.execution import keep_freed_memory
from afa_dist.training.job import agree, train
from afa_dist.training.recorder import OnRow
from afa_dist.training.run_dir import RunDirectory
from afa_dist.training.warned import Warnings, heed_signals


def fit(
    run: TrainingRun, splits: DataSplits, directory: RunDirectory, placement: Placement, start: str, on_row: OnRow
) -> dict[str, Any]:
    """Train on Ray workers and return the run's summary.

    start: the identity of this start in provenance.json, by which workers recognise the shared run directory.

    Raises:
        Stopped: this process or the cluster was warned, and all is saved.
        TrainingError: the loop gave up, or more workers were lost than scaling.max_failures.
    """
    trainer = TorchTrainer(
        _worker,
        train_loop_config={
            "run": absolute(run),
            "directory": str(directory.path),
            "threads": placement.threads,
            "start": start,
            "images": share({"train": splits.train, "held_out": splits.held_out, "test": splits.test}),
            "fingerprint": directory.last_start()["data_fingerprint"],
        },
        scaling_config=ray_train.ScalingConfig(
            num_workers=placement.workers,
            use_gpu=placement.gpu,
            resources_per_worker={"CPU": placement.threads, **({"GPU": 1} if placement.gpu else {})},
        ),
        run_config=ray_train.RunConfig(
            name="ray",
            storage_path=str(directory.path),
            failure_config=ray_train.FailureConfig(max_failures=run.scaling.max_failures),
        ),
    )
    earlier = len(directory.troubles())
    with RowTail(directory, on_row), heed_signals() as signalled:
        try:
            outcome = _fit_interruptibly(trainer, lambda: _pass_on(signalled(), directory, start))
        except ray_train.TrainingFailedError as error:
            raise TrainingError(_reason(error, directory, run, directory.troubles()[earlier:])) from error
    if "stopped" in outcome:
        raise Stopped(outcome["stopped"])
    if "failure" in outcome:
        raise TrainingError(outcome["failure"])
    return dict(outcome["summary"])


def _pass_on(reason: str, directory: RunDirectory, start: str) -> None:
    """Tell the workers of a signal that only this process got."""
    if reason and not directory.asked_to_stop(start):
        directory.ask_to_stop(start, reason)


def _fit_interruptibly(trainer: TorchTrainer, meanwhile: Callable[[], None]) -> dict[str, Any]:
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


def _worker(config: dict[str, Any]) -> dict[str, Any]:
    """One worker's life. Failures that a restart would only repeat are returned, not raised."""
    torch.set_num_threads(config["threads"])
    keep_freed_memory()
    run: TrainingRun = config["run"]
    directory = RunDirectory(Path(config["directory"]))
    device = get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    world = World.current(device)
    try:
        splits, error = None, None
        try:
            _check_shared(directory, config["start"])
            splits = _images(run, config["images"], config["fingerprint"])
        except UserError as found:
            error = found
        agree(world, error)
        assert splits is not None
        own = partial(directory.asked_to_stop, config["start"]) if world.is_main else str
        warnings = Warnings(own, cluster=_preempted)
        return {"summary": train(run, splits, directory, world, on_row=lambda row: None, warnings=warnings)}
    except Stopped as stopped:
        return {"stopped": str(stopped)}
    except (TrainingError, UserError) as failure:
        return {"failure": str(failure)}


def _preempted() -> str:
    """Whether Ray knows that a node of this run is taken away soon; all workers must ask together."""
    info = ray_train.get_preemption_info()
    return f"a node is taken away (Ray's notice for workers {info.preempted_ranks})" if info else ""


def _images(run: TrainingRun, shared: SharedImages | None, fingerprint: str) -> DataSplits:
    """The driver's images: from the object store or, where they are too large for it, read here and compared."""
    if shared is not None:
        return DataSplits(**shared.get())
    return same_images(load_splits(run.data), fingerprint, run.data)


def _check_shared(directory: RunDirectory, start: str) -> None:
    """Make sure that this node sees the directory the driver wrote to: checkpoints must survive a change of node."""
    if not any(entry.get("start") == start for entry in directory.starts()):
        where = f"{directory.path} on {socket.gethostname()} is not the folder that the driver sees"
        raise UserError.one("runs_dir", f"{where}; use a folder that all nodes share")


def _reason(error: BaseException, directory: RunDirectory, run: TrainingRun, troubles: list[str]) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    last = (troubles or [lines[-1].strip() if lines else type(error).__name__])[-1]
    saved = directory.checkpoints.steps()
    rest = f"the same command continues from step {saved[-1]}" if saved else "nothing had been saved yet"
    return f"training stopped after scaling.max_failures = {run.scaling.max_failures} restarts: {last}. {rest.capitalize()}"


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
