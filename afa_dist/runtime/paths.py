"""Paths that mean the same in a worker, whose working directory is another."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, TypeVar

from afa_dist.address import is_address, runs_root
from afa_dist.config import EvaluateRun, FinetuneRun, TrainingRun

R = TypeVar("R", bound=TrainingRun | EvaluateRun)


def absolute(run: R) -> R:
    """`run` with the paths of data and of what it starts from made absolute."""
    places = {name: getattr(run.data, name) for name in ("path", "generated", "cache")}
    found: dict[str, Any] = {
        name: str(Path(place).expanduser().resolve())
        for name, place in places.items()
        if place is not None and not is_address(place)
    }
    run = dataclasses.replace(run, data=dataclasses.replace(run.data, **found))
    if isinstance(run, FinetuneRun) and run.init != "scratch" and not is_address(run.init):
        run = dataclasses.replace(run, init=str(runs_root(run.init)))
    return run
