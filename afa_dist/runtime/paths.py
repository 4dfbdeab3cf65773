"""Paths that mean the same in a worker, whose working directory is another."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TypeVar

from afa_dist.address import is_address, runs_root
from afa_dist.config import EvaluateRun, FinetuneRun, TrainingRun

R = TypeVar("R", bound=TrainingRun | EvaluateRun)


def absolute(run: R) -> R:
    """`run` with the paths of data and of what it starts from made absolute."""
    if run.data.path is not None:
        path = str(Path(run.data.path).expanduser().resolve())
        run = dataclasses.replace(run, data=dataclasses.replace(run.data, path=path))
    if isinstance(run, FinetuneRun) and run.init != "scratch" and not is_address(run.init):
        run = dataclasses.replace(run, init=str(runs_root(run.init)))
    return run
