"""The sections that say with which network, for how long and on what machine a run trains."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Literal

from afa_dist.config.architectures import parse_architecture
from afa_dist.config.attack import PIXEL_HINT
from afa_dist.config.fields import PixelDistance, Section, setting
from afa_dist.errors import Problem


@dataclasses.dataclass(kw_only=True, frozen=True)
class ModelConfig(Section):
    """Which network."""

    arch: str = setting(
        "small-resnet",
        "small-resnet: 3 stages of 1 block (for demos); resnet18, resnet34, resnet50: the CIFAR forms; wrn-D-K: WideResNet "
        "of depth D = 6n+4 and width factor K, such as wrn-28-10, wrn-34-10, wrn-70-16 (wrn-36-10, the paper's, is not of "
        "that form: its 16 blocks are spread 5, 5, 6); timm:NAME or torchvision:NAME: any backbone of that package, "
        "without pre-trained weights (timm: pip install 'afa-dist[timm]')",
    )
    width: int = setting(
        0, "channels of the first stage of a resnet; 0 = 32 for small-resnet, else 64; others have it in their name", ge=0
    )
    norm: Literal["batch", "group"] = setting(
        "batch", "normalisation: batch (over all workers' images) or group; timm and torchvision backbones bring their own"
    )
    normalise: Literal["data", "none"] = setting(
        "data",
        "pixels are shifted and scaled by the training images' mean and deviation, inside the model; or left as they are",
    )
    projection_dim: int = setting(128, "dimensions of the contrastive embedding", ge=2)
    projection_hidden: int = setting(0, "hidden units of the projection head; 0 = as many as features", ge=0)

    def problems(self) -> Iterator[Problem]:
        try:
            found = parse_architecture(self.arch)
        except ValueError as error:
            yield Problem("arch", str(error))
            return
        if self.width and found.kind not in ("basic", "bottleneck"):
            yield Problem("width", f"{self.width} cannot be combined with {self.arch}, whose name fixes the width; use 0")
        if self.norm == "group" and found.is_backbone:
            yield Problem("norm", f"group is not offered for {self.arch}, which brings its own layers; use batch")


@dataclasses.dataclass(kw_only=True, frozen=True)
class UpdateConfig(Section):
    """How weights move, whatever the optimiser; weight decay is off for biases and normalisation layers."""

    lr: float = setting(0.1, "peak learning rate", gt=0)
    weight_decay: float = setting(5e-4, "L2 penalty on weights of convolutions and linear layers", ge=0)
    clip_norm: float = setting(0.0, "largest L2 norm of the gradient, longer ones are scaled down; 0 = no clipping", ge=0)
    not_finite: Literal["stop", "skip"] = setting(
        "stop",
        "what becomes of a step whose loss or gradient is not finite: stop = the run ends, skip = the step is left out",
    )
    max_skipped: int = setting(10, "steps that not_finite skip may leave out before it stops the run after all", ge=0)


@dataclasses.dataclass(kw_only=True, frozen=True)
class OptimiserConfig(UpdateConfig):
    """SGD with Nesterov momentum."""

    momentum: float = setting(0.9, "momentum, 0 to below 1", ge=0, le=0.9999)


@dataclasses.dataclass(kw_only=True, frozen=True)
class AdamConfig(UpdateConfig):
    """AdamW (1711.05101)."""

    lr: float = setting(1e-3, "peak learning rate", gt=0)
    weight_decay: float = setting(0.0, "decoupled weight decay on weights of convolutions and linear layers", ge=0)
    clip_norm: float = setting(1.0, "largest L2 norm of the gradient, longer ones are scaled down; 0 = no clipping", ge=0)
    beta1: float = setting(0.9, "what a step keeps of the mean gradient", ge=0, le=0.9999)
    beta2: float = setting(0.999, "what a step keeps of the mean squared gradient", ge=0, le=0.999999)


@dataclasses.dataclass(kw_only=True, frozen=True)
class ScheduleConfig(Section):
    """How long, in which portions, with which learning rate."""

    epochs: int = setting(40, "passes over the training images", ge=1)
    batch_size: int = setting(128, "images a step, over all workers together", ge=2)
    warmup: float = setting(
        0.05, "share of training over which the learning rate grows linearly from 0; then half a cosine to 0", ge=0, le=1
    )


@dataclasses.dataclass(kw_only=True, frozen=True)
class HeldOutConfig(Section):
    """When held-out training images are measured, which chooses the best checkpoint."""

    every_epochs: int = setting(1, "validate after every so many epochs, and after the last", ge=1)
    patience: int = setting(
        0, "stop after so many validations in a row without a better one (early stopping); 0 = train to the end", ge=0
    )


@dataclasses.dataclass(kw_only=True, frozen=True)
class ValidationConfig(HeldOutConfig):
    """The cheap attack on held-out training images that chooses the best checkpoint."""

    steps: int = setting(10, "PGD steps on the cross-entropy; 0 = clean accuracy only", ge=0)
    norm: Literal["linf", "l2"] | None = setting(None, "distance that bounds this attack; none = as in training")
    eps: PixelDistance | None = setting(
        None, "radius of its ball, pixel scale; none = as in training", ge=0, le=64, hint=PIXEL_HINT
    )
    cheap_epochs: int = setting(
        0, "validations up to this epoch take cheap_steps and choose no checkpoint, except the last one", ge=0
    )
    cheap_steps: int = setting(0, "PGD steps of validations up to cheap_epochs; 0 = half of steps", ge=0)

    def steps_at(self, epoch: int, epochs: int) -> int:
        """PGD steps of the validation after `epoch` of `epochs`."""
        if not self.is_cheap(epoch, epochs):
            return self.steps
        return min(self.steps, self.cheap_steps or (self.steps + 1) // 2)

    def is_cheap(self, epoch: int, epochs: int) -> bool:
        """Whether the validation after `epoch` of `epochs` is only for comparisons at that epoch."""
        return epoch <= self.cheap_epochs and epoch < epochs


@dataclasses.dataclass(kw_only=True, frozen=True)
class CheckpointConfig(Section):
    """When progress is saved, and which checkpoints are kept: the newest, the best, and some for good."""

    every_epochs: int = setting(1, "save after every so many epochs", ge=1)
    every_steps: int = setting(0, "also save after every so many steps; 0 = only at ends of epochs", ge=0)
    keep_last: int = setting(2, "how many of the newest to keep, so that one may be damaged", ge=2)
    keep_best: int = setting(1, "how many of the best to keep, by the validations so far", ge=1)
    keep_every_epochs: int = setting(
        0, "also save and keep for good those after every so many epochs, to look back at; 0 = none", ge=0
    )
    mirror: str | None = setting(
        None,
        "folder (s3://, gs://, hdfs://, file://) that run directories are copied to as they grow; a start that finds "
        "more there than here goes on from it",
    )


@dataclasses.dataclass(kw_only=True, frozen=True)
class TrackingConfig(Section):
    """What is recorded beside metrics.jsonl, which always is."""

    tensorboard: bool = setting(True, "write TensorBoard files into the run directory")
    log_every_steps: int = setting(
        10,
        "steps between two rows of training metrics; there are rows after the first step and at checkpoints as well",
        ge=1,
    )
