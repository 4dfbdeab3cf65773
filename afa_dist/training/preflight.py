"""Checks that need the data or files of other runs, made before anything starts or is written."""

from __future__ import annotations

from collections.abc import Iterator

from afa_dist.config import FinetuneRun, TrainingRun
from afa_dist.data.catalogue import DataSplits
from afa_dist.errors import Problem, UserError
from afa_dist.models.build import build_classifier
from afa_dist.training.checkpoint import DamagedCheckpoint
from afa_dist.training.job import data_shape, load_encoder, pretraining_directory
from afa_dist.training.run_dir import RunDirectory


def training_problems(run: TrainingRun, splits: DataSplits) -> Iterator[Problem]:
    """Mistakes of a training run that its specification alone does not show."""
    batch, images = run.schedule.batch_size, len(splits.train)
    if batch > images:
        yield Problem("schedule.batch_size", f"{batch} is more than the {images} training images; use at most {images}")
    yield from RunDirectory.of(run).problems(run)


def init_problems(run: TrainingRun, splits: DataSplits) -> Iterator[Problem]:
    """Why the weights a fine-tuning run is to start from cannot be used."""
    if not isinstance(run, FinetuneRun) or run.init == "scratch":
        return
    if not pretraining_directory(run.init).path.is_dir():
        yield Problem("init", f"{run.init} is not a folder; give the run directory of a pre-training run, or scratch")
        return
    try:
        load_encoder(build_classifier(run.model, data_shape(splits)), run.init)
    except DamagedCheckpoint as error:
        yield Problem("init", str(error))
    except UserError as error:
        yield from error.problems
