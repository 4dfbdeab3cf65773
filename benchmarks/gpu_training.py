"""CIFAR-10 from scratch against the clock: AFA + TRADES in one stage, PGD-20 on held-out images after every epoch."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from afa_dist.config import (
    ClassifierAttackConfig,
    DataConfig,
    FinetuneRun,
    MethodConfig,
    ModelConfig,
    OptimiserConfig,
    ScalingConfig,
    ScheduleConfig,
    TrackingConfig,
    ValidationConfig,
)
from afa_dist.data.catalogue import DataSplits, load_splits
from afa_dist.data.image_set import ImageSet, hold_out
from afa_dist.distributed import World
from afa_dist.errors import UserError
from afa_dist.training.job import data_shape, make_step
from afa_dist.training.robust import RobustTrainer
from afa_dist.training.run_dir import RunDirectory


class TimeIsUp(Exception):
    """Raised between two steps; what was trained since the last checkpoint is trained again next time."""


def train(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Time and held-out accuracies after each epoch, over all starts together; unfinished if the time was up before."""
    if options.data is None and not options.tiny:
        return {"error": "no --data", "unfinished": True}
    folder = options.out / "training"
    splits = made_up_images() if options.data is None else load(options)
    run = settings(options, device)
    directory = RunDirectory(folder)
    folder.mkdir(parents=True, exist_ok=True)
    clock = Clock(folder / "clock.json", options.deadline)
    step = make_step(run, data_shape(splits), World(device=device))
    trainer = RobustTrainer(step, run, splits, directory, World(device=device), clock.on_row)
    try:
        result = trainer.run()
    except TimeIsUp:
        result = {"unfinished": True}
    return {
        "data": "made up" if options.data is None else "cifar10 (Parquet)",
        "data_fingerprint": splits.fingerprint(),
        "training_images": len(splits.train),
        "arch": run.model.arch,
        "objective": f"{run.objective} beta {run.beta:g} + {run.afa_weight:g} AFA",
        "batch_size": run.schedule.batch_size,
        "epochs": run.schedule.epochs,
        "validations": clock.validations,
        **result,
    }


def settings(options: argparse.Namespace, device: torch.device) -> FinetuneRun:
    """ResNet-18 at 8/255: a TRADES schedule cut short (cosine over the epochs there are), with the joint AFA term."""
    tiny = options.tiny
    return FinetuneRun(
        mode="full",
        objective="trades",
        beta=5,
        afa_weight=1,
        method=MethodConfig(keys="clean"),
        data=DataConfig(crop_padding=4, flip=True),
        model=ModelConfig(arch="small-resnet" if tiny else "resnet18", width=8 if tiny else 0, projection_dim=128),
        attack=ClassifierAttackConfig(eps=8 / 255, steps=2 if tiny else 7, step_size=2 / 255 if tiny else 0.0),
        optimiser=OptimiserConfig(lr=0.1 if tiny else 0.2, weight_decay=5e-4),
        schedule=ScheduleConfig(epochs=2 if tiny else options.epochs, batch_size=32 if tiny else 512, warmup=0.1),
        validation=ValidationConfig(steps=20),
        tracking=TrackingConfig(tensorboard=False),
        scaling=ScalingConfig(compile="auto", precision="auto" if device.type == "cuda" else "fp32"),
    )


def load(options: argparse.Namespace) -> DataSplits:
    """The images of the Parquet folder, 1,024 of the training images held out."""
    try:
        return load_splits(DataConfig(name="parquet", path=str(options.data), held_out=16 if options.tiny else 1024))
    except UserError as error:
        raise SystemExit(str(error)) from error


def made_up_images() -> DataSplits:
    """A class is a bright corner: enough to run all of the code."""
    random = np.random.default_rng(0)

    def make(count: int) -> ImageSet:
        pixels = random.integers(0, 128, (count, 3, 32, 32), dtype=np.uint8)
        labels = np.arange(count) % 4
        for image, label in zip(pixels, labels, strict=True):
            image[:, (label // 2) * 16 : (label // 2) * 16 + 16, (label % 2) * 16 : (label % 2) * 16 + 16] += 127
        return ImageSet(torch.from_numpy(pixels), torch.from_numpy(labels), tuple("abcd"))

    fitted, held_out = hold_out(make(144), 16)
    return DataSplits(fitted, held_out, make(16))


class Clock:
    """Seconds of training over all starts, kept in a file; stops training when its time is up."""

    def __init__(self, path: Path, deadline: float) -> None:
        self.path = path
        self.deadline = deadline
        self.started = time.monotonic()
        kept = json.loads(path.read_text()) if path.exists() else {"validations": []}
        self.validations: list[dict[str, float]] = kept["validations"]
        self.before = self.validations[-1]["seconds"] if self.validations else 0.0
        """What earlier starts took up to their last validation; work after it was lost and is done again."""

    def on_row(self, row: Mapping[str, Any]) -> None:
        if row["phase"] == "validation":
            seconds = self.before + time.monotonic() - self.started
            kept = [entry for entry in self.validations if entry["epoch"] < row["epoch"]]
            measured = {name: round(row[name], 4) for name in ("epoch", "clean_acc", "robust_acc")}
            self.validations = [*kept, {"seconds": round(seconds, 1), **measured}]
            self.path.write_text(json.dumps({"validations": self.validations}))
            print(f"{seconds:.0f} s, epoch {row['epoch']:.0f}: {measured}", flush=True)
        elif time.monotonic() > self.deadline:
            raise TimeIsUp
