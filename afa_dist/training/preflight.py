"""Checks that need the data or files of other runs, made before anything starts or is written."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

from afa_dist.address import is_address
from afa_dist.config import BaseRun, FinetuneRun, RobustRun, TrainingRun
from afa_dist.config.architectures import parse_architecture
from afa_dist.config.budget import images_of_epoch
from afa_dist.data.catalogue import DataSplits
from afa_dist.data.generated import warn_of_other_parts
from afa_dist.data.mixing import Mixture
from afa_dist.errors import Problem, TrainingError, UserError
from afa_dist.models.build import build_encoder
from afa_dist.training.checkpoint import DamagedCheckpoint
from afa_dist.training.initial import initial_sha256, is_weights_file, load_encoder, pretraining_directory
from afa_dist.training.job import classifier_of, data_shape
from afa_dist.training.mirroring import mirror_problems
from afa_dist.training.run_dir import RunDirectory


def data_problems(run: TrainingRun, splits: DataSplits) -> Iterator[Problem]:
    """Mistakes of a training run that show beside its data."""
    batch, images = run.schedule.batch_size, len(splits.train)
    if mixture(run, splits).steps_per_epoch == 0:
        most = int(images * images_of_epoch(run.data)) if splits.generated is not None else images
        mixed = f", which with generated ones fill {most} places" if most > images else ""
        yield Problem(
            "schedule.batch_size", f"{batch} is more than the {images} training images{mixed}; use at most {most}"
        )
    if run.data.generated is not None:
        warn_of_other_parts(run.data, splits.real_fingerprint())
    if run.validation.patience and not len(splits.held_out):
        yield Problem("validation.patience", "needs held-out images to stop by; set data.held_out, or patience 0")
    if not is_address(run.runs_dir):  # see `own_problems`
        yield from RunDirectory.of(run).data_problems(splits.fingerprint())


def mixture(run: TrainingRun, splits: DataSplits) -> Mixture:
    """What an epoch of `run` consists of."""
    generated = len(splits.generated) if splits.generated is not None else 0
    return Mixture.of(len(splits.train), generated, run.schedule.batch_size, run.data.generated_fraction)


def own_problems(run: BaseRun) -> Iterator[Problem]:
    """Mistakes that show in the run directory, or at its address; a copy here that is another run's gives way."""
    directory = RunDirectory.of(run)
    yield from directory.place_problems(run) if is_address(run.runs_dir) else directory.problems(run)
    yield from mirror_problems(run)


def directory_problems(run: TrainingRun) -> Iterator[Problem]:
    """Mistakes that show in the run directory and in the one this run starts from."""
    yield from own_problems(run)
    if isinstance(run, FinetuneRun):
        yield from _start_problems(run)
        if not is_address(run.runs_dir):
            yield from other_start_problems(run)


def _start_problems(run: FinetuneRun) -> Iterator[Problem]:
    """Whether `init` is a finished run, if it is one at all."""
    if is_address(run.init) and is_weights_file(run.init):
        yield Problem("init", f"{run.init} is a file elsewhere; give one of this machine, or a run directory")
    elif run.init != "scratch" and not is_weights_file(run.init):
        try:
            start = pretraining_directory(run.init)
        except UserError as error:
            yield from error.problems
            return
        summary = start.read_json("summary.json") if start.path.is_dir() else None
        if not start.path.is_dir():
            yield Problem("init", f"{run.init} is not a folder; give the run directory of a pre-training run, or scratch")
        elif summary is None:
            yield Problem("init", f"{run.init} is not a finished training run (it has no summary.json); finish it first")
        elif "data_fingerprint" not in summary:
            yield Problem(
                "init", f"{run.init} is no training run; give the run directory of a pre-training run, or scratch"
            )


def other_start_problems(run: FinetuneRun) -> Iterator[Problem]:
    """Whether `init` holds other weights than those that the run in the directory was started from."""
    directory = RunDirectory.of(run)
    recorded = directory.last_start().get("init_sha256") if directory.has_results() else None
    if recorded is None:
        return
    try:
        unchanged = initial_sha256(run.init) == recorded
    except (OSError, TrainingError, UserError):
        return  # reported where the weights are to be loaded
    if not unchanged:
        what = f"{run.init} holds other weights than those that {directory.place} was started from; choose another name"
        yield Problem("init", what)


def model_problems(run: TrainingRun, splits: DataSplits) -> Iterator[Problem]:
    """Why the backbone that `run` names cannot be built for its images: not installed, not known, or of another size.

    It is really built, on the CPU: not all constructors of other packages work without memory behind the weights. Our
    own networks take images of any size, so there is nothing to try.
    """
    if not isinstance(run, RobustRun) or not parse_architecture(run.model.arch).is_backbone:
        return
    try:
        build_encoder(run.model, data_shape(splits))
    except UserError as error:
        yield from error.problems


def init_problems(run: TrainingRun, splits: DataSplits) -> Iterator[Problem]:
    """Why the weights a fine-tuning run is to start from cannot be used."""
    if not isinstance(run, FinetuneRun) or run.init == "scratch" or any(_start_problems(run)):
        return
    try:
        net = classifier_of(run, data_shape(splits))
    except UserError:
        return  # `model_problems` reports it
    try:
        load_encoder(net, run.init)
    except DamagedCheckpoint as error:
        yield Problem("init", str(error))
    except UserError as error:
        yield from error.problems
    if is_weights_file(run.init):
        return
    _warn_of_other_layer(run)
    summary = pretraining_directory(run.init).read_json("summary.json")
    if (summary.get("real_fingerprint") or summary["data_fingerprint"]) != splits.real_fingerprint():
        warnings.warn(
            f"{run.init} was pre-trained on other images than these: if it saw the held-out ones, the choice of the best "
            "checkpoint is too optimistic (test accuracies are not affected)",
            stacklevel=2,
        )


def _warn_of_other_layer(run: FinetuneRun) -> None:
    """Joint training aligns the layer it is told to; after pre-training of another one that is easily overlooked."""
    config = pretraining_directory(run.init).read_config()
    layer = config.get("method", {}).get("layer", run.method.layer)
    if run.afa_weight > 0 and layer != run.method.layer:
        warnings.warn(
            f"{run.init} aligned its {layer} layer, this run aligns the {run.method.layer} layer (method.layer), "
            "so a projection head starts with fresh weights or is not used",
            stacklevel=3,
        )
