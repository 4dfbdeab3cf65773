"""The sections a run is made of. Every default that the AFA paper leaves open is ours and can be changed here."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Literal

from afa_dist.config.architectures import parse_architecture
from afa_dist.config.fields import PixelDistance, Section, setting
from afa_dist.errors import Problem

PIXEL_HINT = "pixels are in [0, 1]: write 8/255 for 8"


@dataclasses.dataclass(kw_only=True, frozen=True)
class DataConfig(Section):
    """Which images."""

    name: Literal["digits", "parquet", "cifar10", "cifar100"] = setting(
        "digits",
        "data set: digits (scikit-learn's scans, in the package), parquet (Hugging Face image layout, by path), "
        "cifar10 or cifar100 (torchvision's files under path)",
    )
    path: str | None = setting(None, "folder with the files (parquet: train*.parquet and test*.parquet); not for digits")
    train_limit: int = setting(0, "use only this many training images, chosen evenly by class; 0 = all", ge=0)
    test_limit: int = setting(0, "use only this many test images, chosen evenly by class; 0 = all", ge=0)
    held_out: int = setting(
        -1, "training images set aside for choosing checkpoints; -1 = 1,024 or 10 %, whichever is less", ge=-1
    )
    crop_padding: int = setting(0, "augmentation: random crop after padding by this many pixels; 0 = no crop", ge=0, le=64)
    flip: bool = setting(False, "augmentation: mirror half of the images left to right")

    def problems(self) -> Iterator[Problem]:
        if self.name == "digits" and self.path is not None:
            yield Problem("path", "digits come with scikit-learn and take no path; leave it out or choose another name")
        if self.name != "digits" and self.path is None:
            yield Problem("path", f"missing; {self.name} needs the folder that holds its files")


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
class MethodConfig(Section):
    """The AFA loss. What the paper leaves open is an option; docs/method.md says why each default was chosen."""

    temperature: float = setting(0.1, "softmax temperature of the contrastive loss, no unit", gt=0)
    keys: Literal["clean", "adversarial", "both"] = setting("clean", "which images of the batch are compared against")
    anchors: Literal["adversarial", "both"] = setting(
        "adversarial", "which images are pulled towards their class: adversarial ones only, or clean ones as well"
    )
    own_copy: Literal["positive", "excluded"] = setting(
        "positive", "the other version (clean or adversarial) of the anchor's own image: a positive, or left out"
    )
    denominator: Literal["all", "negatives"] = setting(
        "all", "keys under the fraction: all, or those of other classes plus the one positive (SupRobCon)"
    )
    layer: Literal["projection", "penultimate"] = setting(
        "projection", "features that are aligned: the projection head's, or the encoder's own (then no head is built)"
    )


@dataclasses.dataclass(kw_only=True, frozen=True)
class BaseAttackConfig(Section):
    """What an attack may do to an image."""

    norm: Literal["linf", "l2"] = setting("linf", "distance that bounds the perturbation")
    eps: PixelDistance = setting(
        8 / 255, "radius of the ball, pixel scale [0, 1]; L2 may exceed 1; 8/255 parses", ge=0, le=64, hint=PIXEL_HINT
    )

    def problems(self) -> Iterator[Problem]:
        if self.norm == "linf" and self.eps > 1:
            yield Problem("eps", f"{self.eps:g} is not allowed; an L-inf radius must be at most 1 ({PIXEL_HINT})")


@dataclasses.dataclass(kw_only=True, frozen=True)
class TrainAttackConfig(BaseAttackConfig):
    """The attack inside a training step."""

    steps: int = setting(10, "gradient steps; 0 = random start only", ge=0)
    step_size: PixelDistance = setting(0.0, "length of a step, pixel scale; 0 = eps / 4", ge=0, le=64, hint=PIXEL_HINT)
    random_start: bool = setting(True, "start at a random point of the ball instead of at the image")
    bn: Literal["eval", "batch", "train"] = setting(
        "eval", "BatchNorm while attacking: running statistics, the batch's own, or plain training mode (collapses)"
    )
    warmup: float = setting(0.0, "share of training over which eps and the step grow linearly from 0", ge=0, le=1)

    def scaled_step(self, eps: float) -> float:
        """Step length when the radius is `eps` (the warm-up shrinks both alike)."""
        if self.step_size == 0:
            return eps / 4
        return self.step_size * (eps / self.eps if self.eps > 0 else 1.0)


@dataclasses.dataclass(kw_only=True, frozen=True)
class ContrastiveAttackConfig(TrainAttackConfig):
    """The attack inside a pre-training step."""

    objective: Literal["afa", "ce", "kl"] = setting(
        "afa", "what it maximises: the AFA loss, or cross-entropy / KL to the clean prediction of a linear probe"
    )
    keys: Literal["as_loss", "clean"] = setting(
        "as_loss",
        "keys the objective afa is computed with: those of the loss (adversarial keys are gathered again at every step), "
        "or clean ones (gathered once)",
    )


@dataclasses.dataclass(kw_only=True, frozen=True)
class OptimiserConfig(Section):
    """SGD with Nesterov momentum; weight decay is off for biases and normalisation layers."""

    lr: float = setting(0.1, "peak learning rate", gt=0)
    momentum: float = setting(0.9, "momentum, 0 to below 1", ge=0, le=0.9999)
    weight_decay: float = setting(5e-4, "L2 penalty on weights of convolutions and linear layers", ge=0)
    clip_norm: float = setting(0.0, "largest L2 norm of the gradient, longer ones are scaled down; 0 = no clipping", ge=0)


@dataclasses.dataclass(kw_only=True, frozen=True)
class ScheduleConfig(Section):
    """How long, in which portions, with which learning rate."""

    epochs: int = setting(40, "passes over the training images", ge=1)
    batch_size: int = setting(128, "images a step, over all workers together", ge=2)
    warmup: float = setting(
        0.05, "share of training over which the learning rate grows linearly from 0; then half a cosine to 0", ge=0, le=1
    )


@dataclasses.dataclass(kw_only=True, frozen=True)
class ValidationConfig(Section):
    """The cheap attack on held-out training images that chooses the best checkpoint."""

    every_epochs: int = setting(1, "validate after every so many epochs, and after the last", ge=1)
    steps: int = setting(10, "PGD steps on the cross-entropy, at the training eps; 0 = clean accuracy only", ge=0)


@dataclasses.dataclass(kw_only=True, frozen=True)
class ScalingConfig(Section):
    """On what it runs. Results do not depend on it, beyond rounding."""

    workers: int = setting(
        -1,
        "0 = in this process, without Ray; N = N DDP workers of Ray Train; -1 = one a GPU where there are several or a "
        "cluster is addressed (RAY_ADDRESS), else 0",
        ge=-1,
    )
    device: Literal["auto", "cpu", "gpu"] = setting("auto", "what workers compute on; auto = GPUs if there is one for each")
    threads: int = setting(0, "CPU threads a worker; 0 = the cores there are, shared among the workers", ge=0)
    precision: Literal["auto", "fp32", "bf16", "fp64"] = setting(
        "auto",
        "arithmetic: bf16 autocast of network passes with fp32 losses (on GPUs that have it, by auto), fp32, or fp64 to "
        "check that results do not depend on the number of workers",
    )
    max_failures: int = setting(3, "restarts from the last checkpoint after a lost worker; Ray workers only", ge=0)


@dataclasses.dataclass(kw_only=True, frozen=True)
class CheckpointConfig(Section):
    """When progress is saved. The last and the best checkpoint are always kept."""

    every_epochs: int = setting(1, "save after every so many epochs", ge=1)
    every_steps: int = setting(0, "also save after every so many steps; 0 = only at ends of epochs", ge=0)
    keep_last: int = setting(2, "how many of the newest to keep, beside the best; 2, so that one may be damaged", ge=2)


@dataclasses.dataclass(kw_only=True, frozen=True)
class TrackingConfig(Section):
    """What is recorded beside metrics.jsonl, which always is."""

    tensorboard: bool = setting(True, "write TensorBoard files into the run directory")
    log_every_steps: int = setting(10, "steps between two rows of training metrics", ge=1)


@dataclasses.dataclass(kw_only=True, frozen=True)
class ThreatConfig(BaseAttackConfig):
    """What the evaluation's attacks may do."""
