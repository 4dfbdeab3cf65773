"""The specifications of training jobs: what all of them have, and the two stages that train robust networks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Literal

from afa_dist.address import fault_of, is_address
from afa_dist.config.attack import (
    KL_START,
    PIXEL_HINT,
    ClassifierAttackConfig,
    ContrastiveAttackConfig,
    ThreatConfig,
    TrainAttackConfig,
)
from afa_dist.config.base import BaseRun
from afa_dist.config.data_section import DataConfig
from afa_dist.config.fields import section, setting
from afa_dist.config.method import (
    AverageConfig,
    AwpConfig,
    EmaConfig,
    GeneratedConfig,
    GeneratedLabelsConfig,
    MethodConfig,
)
from afa_dist.config.scaling import batch_problems
from afa_dist.config.sections import (
    CheckpointConfig,
    HeldOutConfig,
    ModelConfig,
    OptimiserConfig,
    ScheduleConfig,
    TrackingConfig,
    UpdateConfig,
    ValidationConfig,
)
from afa_dist.errors import Problem


@dataclasses.dataclass(kw_only=True, frozen=True)
class TrainingRun(BaseRun):
    """What all training jobs have, whatever they train."""

    data: DataConfig = section(DataConfig, "which images")
    optimiser: UpdateConfig = section(UpdateConfig, "how weights move")
    schedule: ScheduleConfig = section(ScheduleConfig, "epochs, batch, learning-rate shape")
    ema: AverageConfig = section(AverageConfig, "averaged weights")
    validation: HeldOutConfig = section(HeldOutConfig, "the measurement that chooses checkpoints")
    checkpoint: CheckpointConfig = section(CheckpointConfig, "when progress is saved")
    tracking: TrackingConfig = section(TrackingConfig, "what is recorded")

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from batch_problems(self.schedule.batch_size, self.scaling.fewest, self.scaling.most)
        if self.checkpoint.mirror is not None and (fault := fault_of(self.checkpoint.mirror)):
            yield Problem("checkpoint.mirror", fault)
        if is_address(self.runs_dir) and self.checkpoint.mirror is not None:
            yield Problem("checkpoint.mirror", f"{self.checkpoint.mirror}: runs_dir is an address already; leave out one")

    @property
    def mirrored_to(self) -> str | None:
        """See `BaseRun`; a run in a folder may have a mirror as well (checkpoint.mirror)."""
        return super().mirrored_to or self.checkpoint.mirror


@dataclasses.dataclass(kw_only=True, frozen=True)
class RobustRun(TrainingRun):
    """What both jobs have that train networks to resist attacks."""

    model: ModelConfig = section(ModelConfig, "which network")
    attack: TrainAttackConfig = section(TrainAttackConfig, "the attack inside a training step")
    optimiser: OptimiserConfig = section(OptimiserConfig, "SGD settings")
    ema: EmaConfig = section(EmaConfig, "averaged weights")
    awp: AwpConfig = section(AwpConfig, "adversarial weight perturbation")
    generated: GeneratedConfig = section(GeneratedConfig, "what generated images count for (data.generated)")
    validation: ValidationConfig = section(ValidationConfig, "the attack that chooses checkpoints")

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        if self.validation.norm not in (None, self.attack.norm) and self.validation.eps is None:
            what = f"is needed: validation.norm is {self.validation.norm}, and attack.eps is of norm {self.attack.norm}"
            yield Problem("validation.eps", what)
        if (self.validation.norm or self.attack.norm) == "linf" and (self.validation.eps or 0) > 1:
            what = f"{self.validation.eps:g} is not allowed; an L-inf radius must be at most 1 ({PIXEL_HINT})"
            yield Problem("validation.eps", what)

    @property
    def validated_threat(self) -> ThreatConfig:
        """The ball of the attack that chooses checkpoints: that of training, unless `validation` says otherwise."""
        own = self.validation
        return ThreatConfig(norm=own.norm or self.attack.norm, eps=self.attack.eps if own.eps is None else own.eps)


@dataclasses.dataclass(kw_only=True, frozen=True)
class PretrainRun(RobustRun):
    """AFA pre-training of the feature extractor (jobs/pretrain.py)."""

    method: MethodConfig = section(MethodConfig, "the AFA loss")
    attack: ContrastiveAttackConfig = section(ContrastiveAttackConfig, "the attack inside a pre-training step")


@dataclasses.dataclass(kw_only=True, frozen=True)
class FinetuneRun(RobustRun):
    """Training of a classifier, on a pre-trained extractor or from scratch (jobs/finetune.py)."""

    init: str = setting(
        "scratch",
        "what to start from: the run directory of a pre-training run (its best weights; a folder or an address), a "
        ".safetensors file with published weights of a resnet or wrn, or scratch",
    )
    mode: Literal["linear", "full"] = setting("linear", "train the linear classifier only (as AFA does), or everything")
    objective: Literal["pgd", "ce", "trades"] = setting(
        "pgd",
        "cross-entropy on adversarial images (pgd, 1706.06083), on clean ones (ce), or on clean ones plus beta times the "
        "KL divergence between both predictions (trades, 1901.08573)",
    )
    beta: float = setting(6.0, "weight of the KL divergence in objective trades", ge=0)
    afa_weight: float = setting(
        0.0, "weight (lambda) of an AFA loss trained jointly, through a projection head; 0 = none; mode full only", ge=0
    )
    label_smoothing: float = setting(
        0.0, "share of each label spread over all classes in the cross-entropy", ge=0, le=0.9999
    )
    method: MethodConfig = section(MethodConfig, "the AFA loss (afa_weight > 0)")
    generated: GeneratedLabelsConfig = section(GeneratedLabelsConfig, "what generated images count for (data.generated)")
    attack: ClassifierAttackConfig = section(ClassifierAttackConfig, "the attack inside a fine-tuning step")

    @property
    def attack_objective(self) -> Literal["ce", "kl", "afa"]:
        """What the attack maximises, "auto" resolved."""
        if self.attack.objective != "auto":
            return self.attack.objective
        return "kl" if self.objective == "trades" else "ce"

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from self._joint_problems()
        if fault := fault_of(self.init):
            yield Problem("init", fault)
        if self.objective != "ce" and self.attack_objective == "kl" and self.attack.stays_at_image:
            yield Problem("attack.random_start", KL_START)
        if self.init == "scratch" and self.mode == "linear":
            yield Problem("mode", "linear needs a pre-trained extractor: set init to a pre-training run, or mode to full")
        if self.mode == "linear" and self.attack.bn == "train":
            yield Problem("attack.bn", "train would change the frozen extractor's statistics; use eval or batch")

    def _joint_problems(self) -> Iterator[Problem]:
        if self.afa_weight == 0:
            if self.attack.objective == "afa":
                yield Problem("attack.objective", "afa needs the loss it attacks: set afa_weight above 0")
            return
        if self.mode == "linear":
            yield Problem("afa_weight", f"{self.afa_weight:g} needs mode full: a frozen extractor cannot be aligned")
        if self.objective == "ce":
            yield Problem("afa_weight", f"{self.afa_weight:g} needs adversarial images: set objective to trades or pgd")
        if self.method.views == "independent":
            yield Problem("method.views", "independent is for pre-training; here both versions of an image share one view")
