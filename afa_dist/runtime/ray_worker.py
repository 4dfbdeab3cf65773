"""The life of one Ray Train worker. The loop inside is the one of the in-process twin."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any

import torch
from ray import train as ray_train
from ray.train.torch import get_device

from afa_dist.address import is_address
from afa_dist.config import TrainingRun
from afa_dist.distributed import World
from afa_dist.errors import Stopped, TrainingError, UserError
from afa_dist.memory import keep_freed_memory
from afa_dist.runtime.board import WorkerBoard
from afa_dist.runtime.sharing import splits_of
from afa_dist.training.agreement import agree
from afa_dist.training.job import train
from afa_dist.training.mirroring import take_over
from afa_dist.training.run_dir import PREDECESSOR_SECONDS, RunDirectory
from afa_dist.training.warned import Warnings

RETRY_SECONDS = 5.0
"""Between two tries to reach the place where the run is."""


def work(config: dict[str, Any]) -> dict[str, Any]:
    """Train as one of the workers. Failures that a restart would only repeat are returned, not raised.

    config: what `ray_train.fit` gives to all workers.
    """
    torch.set_num_threads(config["threads"])
    keep_freed_memory()
    run: TrainingRun = config["run"]
    elsewhere = is_address(run.runs_dir)
    directory = RunDirectory.of(run) if elsewhere else RunDirectory(Path(config["directory"]))
    device = get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    world = World.current(device)
    board = WorkerBoard(config["start"], config["group"], listens=world.is_main)
    try:
        splits, error = None, None
        try:
            if elsewhere and world.is_main:
                _take_over(run, directory)
            if world.is_main or not elsewhere:
                _check_shared(directory, config["start"])
            splits = splits_of(run, config["images"], config["fingerprint"])
        except (UserError, TrainingError) as found:
            error = found
        agree(world, error)
        assert splits is not None
        if world.is_main:
            board.began()
        warnings = Warnings(board.asked_to_stop, cluster=_preempted)
        return {"summary": train(run, splits, directory, world, board.row, warnings, board.trouble)}
    except Stopped as stopped:
        return {"stopped": str(stopped), "lacking": stopped.lacking, "leaving": _leaving_nodes()}
    except (TrainingError, UserError) as failure:
        return {"failure": str(failure)}
    finally:
        board.close()


def _take_over(run: TrainingRun, directory: RunDirectory) -> None:
    """Bring this machine's copy to where the run is, however long the place does not answer, up to a limit."""
    deadline = time.monotonic() + run.scaling.wait_seconds
    while True:
        try:
            take_over(run, directory, PREDECESSOR_SECONDS)
            return
        except TrainingError:
            if time.monotonic() > deadline:
                raise
            time.sleep(RETRY_SECONDS)


def _preempted() -> str:
    """Whether Ray knows that a node of this run is taken away soon; all workers must ask together."""
    info = ray_train.get_preemption_info()
    return f"a node is taken away (Ray's notice for workers {info.preempted_ranks})" if info else ""


def _leaving_nodes() -> list[str]:
    """Ray's names of the nodes that are taken away soon; all workers must ask together."""
    info = ray_train.get_preemption_info()
    return info.preempted_node_ids if info else []


def _check_shared(directory: RunDirectory, start: str) -> None:
    """Make sure that this node has the directory as the driver wrote it: checkpoints must survive a change of node."""
    if not any(entry.get("start") == start for entry in directory.starts()):
        where = f"{directory.path} on {socket.gethostname()} is not the folder that the driver sees"
        raise UserError.one("runs_dir", f"{where}; use one that all nodes share, or an address such as s3://bucket/runs")
