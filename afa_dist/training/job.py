"""One training job on one worker: builds the stage, runs the loop, exports the result."""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from afa_dist.config import DiffusionRun, FinetuneRun, PretrainRun, RobustRun, TrainingRun
from afa_dist.data.catalogue import DataSplits
from afa_dist.distributed import World, derive_seed
from afa_dist.errors import TrainingError, UserError
from afa_dist.models.build import DataShape, build_classifier, build_contrastive, build_joint
from afa_dist.models.export import save_classifier
from afa_dist.models.networks import Classifier
from afa_dist.training.agreement import agree
from afa_dist.training.checkpoint import Checkpoint
from afa_dist.training.execution import compiles, uses_bf16
from afa_dist.training.finetune import FinetuneStep
from afa_dist.training.initial import load_encoder
from afa_dist.training.lease import Claim
from afa_dist.training.loop import Trainer
from afa_dist.training.mirroring import complete
from afa_dist.training.pretrain import PretrainStep
from afa_dist.training.recorder import OnRow
from afa_dist.training.robust import RobustTrainer
from afa_dist.training.run_dir import OTHERS_SECONDS, PREDECESSOR_SECONDS, RunDirectory
from afa_dist.training.step import Step, Trained
from afa_dist.training.warned import Warnings
from afa_dist.training.watchdog import Watchdog

OnTrouble = Callable[[str], None]


def train(
    run: TrainingRun,
    splits: DataSplits,
    directory: RunDirectory,
    world: World,
    on_row: OnRow,
    warnings: Warnings | None = None,
    on_trouble: OnTrouble = lambda what: None,
) -> dict[str, Any]:
    """Run `run` to its end on this worker and return its summary (also written as summary.json by the main worker).

    on_trouble: hears why this worker ends, if it cannot say so by an exception.

    Raises:
        Stopped: there was a warning, and all is saved.
        LostWorker: another worker is gone.
        UserError: the directory is in use, or the weights to start from do not fit.
        TrainingError: the run cannot go on, or another worker could not start.
    """
    with contextlib.ExitStack() as stack:
        error, step, claim = None, None, None
        try:
            if world.is_main:
                ours = bool(directory.last_start().get("workers"))  # a group of this start held it before
                stack.enter_context(directory.locked(PREDECESSOR_SECONDS if ours else OTHERS_SECONDS))
            claim = Claim.of(directory)
            step = make_step(run, data_shape(splits), world)
        except (UserError, TrainingError) as found:
            error = found
        agree(world, error)
        assert step is not None
        if world.size > 1:
            step.forward = wrap(step.forward, world)
        with Watchdog(world, run.scaling.timeout_seconds, partial(_end, directory, on_trouble)):
            result = trainer_of(step, run, splits, directory, world, on_row, warnings).run()
        error = None
        if world.is_main:
            finish(run, splits, directory, {**result, "seconds": directory.seconds()})
            try:
                complete(run, directory, claim)
            except TrainingError as found:
                error = found
        agree(world, error)  # nobody goes on to what builds on this before it is written
        return dict(world.said(directory.read_json("summary.json") if world.is_main else None))


def _end(directory: RunDirectory, on_trouble: OnTrouble, what: str) -> None:
    """End this process from a thread while the main one waits for a worker that will not come."""
    print(f"afa-dist: {what}", file=sys.stderr, flush=True)
    try:
        directory.note_trouble(what)
        on_trouble(what)
    finally:
        os._exit(1)


def trainer_of(step: Trained, run: TrainingRun, *args: Any) -> Trainer:
    """The loop for `run`; args are those of `Trainer`."""
    if isinstance(run, DiffusionRun):
        from afa_dist.diffusion.trainer import DiffusionTrainer  # needs diffusers, which others do without

        return DiffusionTrainer(step, run, *args)
    assert isinstance(run, RobustRun)
    return RobustTrainer(cast("Step", step), run, *args)


def finish(run: TrainingRun, splits: DataSplits, directory: RunDirectory, result: dict[str, Any]) -> None:
    """Export the best model and write the summary; a finished run that is started again keeps its first one."""
    earlier = directory.read_json("summary.json")
    if earlier and earlier["steps"] == result["steps"]:
        return
    if not isinstance(run, PretrainRun):
        checkpoint = directory.checkpoints.best()
        assert checkpoint is not None
        _export(run, splits, directory, checkpoint)
    fingerprints = {"data_fingerprint": splits.fingerprint(), "real_fingerprint": splits.real_fingerprint()}
    directory.write_json("summary.json", {**result, **fingerprints})


def _export(run: TrainingRun, splits: DataSplits, directory: RunDirectory, checkpoint: Checkpoint) -> None:
    if isinstance(run, DiffusionRun):
        from afa_dist.diffusion.export import save_pipeline

        save_pipeline(directory.model, checkpoint.weights, run, splits, data_shape(splits))
        return
    assert isinstance(run, FinetuneRun)
    weights = {name: value for name, value in checkpoint.weights.items() if not name.startswith("head.")}
    save_classifier(directory.model, weights, run, data_shape(splits))


def data_shape(splits: DataSplits) -> DataShape:
    mean, std = splits.train.pixel_statistics()
    channels, height, width = splits.train.shape
    return DataShape(channels, mean, std, splits.train.classes, (height, width))


def make_step(run: TrainingRun, shape: DataShape, world: World) -> Trained:
    """The stage's networks and step. Weights are drawn on the CPU from the run's seed, alike on every worker.

    Raises:
        UserError: weights to start from do not fit, or a package is missing.
    """
    bf16 = uses_bf16(run.scaling.precision, world.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("weights", run.seed))
        step = _new_step(run, shape, bf16)
    step.net.to(world.device, torch.float64 if run.scaling.precision == "fp64" else torch.float32)
    if world.device.type == "cuda" or bf16:  # in fp32 on CPUs it is no faster
        step.net.to(memory_format=torch.channels_last)
    if compiles(run.scaling.compile, world.device):
        # In place: names of weights stay what they are. Each mode and each shape is compiled once.
        step.backbone.compile(dynamic=False)
    return step


def _new_step(run: TrainingRun, shape: DataShape, bf16: bool) -> Trained:
    if isinstance(run, DiffusionRun):
        from afa_dist.diffusion.denoiser import build_denoiser
        from afa_dist.diffusion.step import DenoiseStep

        return DenoiseStep(build_denoiser(run.network, run.edm, shape), run, bf16)
    if isinstance(run, PretrainRun):
        return PretrainStep(build_contrastive(run.model, run.method, shape), run, bf16)
    assert isinstance(run, FinetuneRun)
    net = classifier_of(run, shape)
    if run.init != "scratch":
        load_encoder(net, run.init)
    return FinetuneStep(net, run, bf16)


def classifier_of(run: FinetuneRun, shape: DataShape) -> Classifier:
    """The network of fine-tuning, for joint training with a projection head beside the classifier; fresh weights."""
    return build_joint(run.model, run.method, shape) if run.afa_weight > 0 else build_classifier(run.model, shape)


def wrap(net: nn.Module, world: World) -> nn.Module:
    """DDP around `net`. Buffers are not broadcast: global BatchNorm keeps them equal, and the attack calls `net`."""
    ids = [world.device] if world.device.type == "cuda" else None
    known = inspect.signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # before torch 2.14
    unsynchronised: dict[str, Any] = {name: False}
    return DistributedDataParallel(net, device_ids=ids, **unsynchronised)
