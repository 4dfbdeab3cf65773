"""The twin of Ray Train in the calling process: one worker, or what torchrun started."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist

from afa_dist.config import TrainingRun
from afa_dist.data.catalogue import DataSplits
from afa_dist.distributed import World
from afa_dist.runtime.placement import Placement
from afa_dist.training.job import train
from afa_dist.training.recorder import OnRow
from afa_dist.training.run_dir import RunDirectory


def fit(run: TrainingRun, splits: DataSplits, directory: RunDirectory, placement: Placement, on_row: OnRow) -> dict[str, Any]:
    """Train here. Under torchrun (WORLD_SIZE set) this process is one of several workers."""
    torch.set_num_threads(placement.threads)
    with world(placement.gpu) as here:
        return train(run, splits, directory, here, on_row)


@contextlib.contextmanager
def world(gpu: bool) -> Iterator[World]:
    """The world of this process; joins torchrun's process group for as long as it is needed."""
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(device)
    if torchrun_size() == 1:
        yield World.current(device)
        return
    dist.init_process_group("nccl" if gpu else "gloo")
    try:
        yield World.current(device)
    finally:
        dist.destroy_process_group()


def torchrun_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Whether this process speaks for the run: always, except under torchrun on other ranks."""
    return int(os.environ.get("RANK", "0")) == 0
