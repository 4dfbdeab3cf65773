"""The twin of Ray Train in the calling process: one worker, or what torchrun started."""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist

from afa_dist.config import TrainingRun
from afa_dist.data.catalogue import DataSplits
from afa_dist.distributed import World, join_group
from afa_dist.memory import keep_freed_memory
from afa_dist.runtime.placement import Placement, torchrun_size
from afa_dist.training.job import train
from afa_dist.training.recorder import OnRow
from afa_dist.training.run_dir import RunDirectory
from afa_dist.training.warned import Source, Warnings, heed_signals


def fit(
    run: TrainingRun, splits: DataSplits, directory: RunDirectory, placement: Placement, on_row: OnRow, lost: Source = str
) -> dict[str, Any]:
    """Train here. Under torchrun (WORLD_SIZE set) this process is one of several workers.

    lost: why the run is no longer this process's own, if so.
    """
    torch.set_num_threads(placement.threads)
    keep_freed_memory()
    with heed_signals() as signalled:
        own = Warnings(lambda: signalled() or lost())
        return train(run, splits, directory, world(placement.gpu), on_row, own)


def world(gpu: bool) -> World:
    """The world of this process; joins torchrun's process group, once, and leaves it when the process ends."""
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(device)
    if torchrun_size() > 1 and not dist.is_initialized():
        join_group("nccl" if gpu else "gloo")
    return World.current(device)
