"""One root dataclass per job: a complete run specification."""

from __future__ import annotations

import dataclasses
import re
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
from afa_dist.config.attack_names import FAST, VALID_ATTACKS, meant, parse_attack, single_attacks
from afa_dist.config.fields import Section, section, setting
from afa_dist.config.method import AwpConfig, EmaConfig, MethodConfig
from afa_dist.config.scaling import ScalingConfig, batch_problems
from afa_dist.config.sections import (
    CheckpointConfig,
    DataConfig,
    ModelConfig,
    OptimiserConfig,
    ScheduleConfig,
    TrackingConfig,
    ValidationConfig,
)
from afa_dist.errors import Problem


@dataclasses.dataclass(kw_only=True, frozen=True)
class BaseRun(Section):
    """What every job has."""

    name: str = setting("run", "name of the run; its directory is runs_dir/name")
    runs_dir: str = setting(
        "runs", "folder that holds run directories, or an address of one (s3://, gs://, hdfs://, file://)"
    )
    seed: int = setting(0, "seed of everything random", ge=0)
    scaling: ScalingConfig = section(ScalingConfig, "on what it runs")

    def problems(self) -> Iterator[Problem]:
        bad = self.name in ("", ".", "..") or any(part in ("", "..") for part in self.name.split("/"))
        if bad or "\\" in self.name:
            yield Problem("name", f"{self.name!r} cannot be a folder's name; use letters, digits, '-', '_' and '/'")
        if fault := fault_of(self.runs_dir):
            yield Problem("runs_dir", fault)

    @property
    def mirrored_to(self) -> str | None:
        """The address that run directories are copied to as they grow: runs_dir, if it is one."""
        return self.runs_dir if is_address(self.runs_dir) else None


@dataclasses.dataclass(kw_only=True, frozen=True)
class TrainingRun(BaseRun):
    """What both training jobs have."""

    data: DataConfig = section(DataConfig, "which images")
    model: ModelConfig = section(ModelConfig, "which network")
    attack: TrainAttackConfig = section(TrainAttackConfig, "the attack inside a training step")
    optimiser: OptimiserConfig = section(OptimiserConfig, "SGD settings")
    schedule: ScheduleConfig = section(ScheduleConfig, "epochs, batch, learning-rate shape")
    ema: EmaConfig = section(EmaConfig, "averaged weights")
    awp: AwpConfig = section(AwpConfig, "adversarial weight perturbation")
    validation: ValidationConfig = section(ValidationConfig, "the attack that chooses checkpoints")
    checkpoint: CheckpointConfig = section(CheckpointConfig, "when progress is saved")
    tracking: TrackingConfig = section(TrackingConfig, "what is recorded")

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from batch_problems(self.schedule.batch_size, self.scaling.fewest, self.scaling.most)
        if self.validation.norm not in (None, self.attack.norm) and self.validation.eps is None:
            what = f"is needed: validation.norm is {self.validation.norm}, and attack.eps is of norm {self.attack.norm}"
            yield Problem("validation.eps", what)
        if (self.validation.norm or self.attack.norm) == "linf" and (self.validation.eps or 0) > 1:
            what = f"{self.validation.eps:g} is not allowed; an L-inf radius must be at most 1 ({PIXEL_HINT})"
            yield Problem("validation.eps", what)
        if self.checkpoint.mirror is not None and (fault := fault_of(self.checkpoint.mirror)):
            yield Problem("checkpoint.mirror", fault)
        if is_address(self.runs_dir) and self.checkpoint.mirror is not None:
            yield Problem("checkpoint.mirror", f"{self.checkpoint.mirror}: runs_dir is an address already; leave out one")

    @property
    def validated_threat(self) -> ThreatConfig:
        """The ball of the attack that chooses checkpoints: that of training, unless `validation` says otherwise."""
        own = self.validation
        return ThreatConfig(norm=own.norm or self.attack.norm, eps=self.attack.eps if own.eps is None else own.eps)

    @property
    def mirrored_to(self) -> str | None:
        """See `BaseRun`; a run in a folder may have a mirror as well (checkpoint.mirror)."""
        return super().mirrored_to or self.checkpoint.mirror


@dataclasses.dataclass(kw_only=True, frozen=True)
class PretrainRun(TrainingRun):
    """AFA pre-training of the feature extractor (jobs/pretrain.py)."""

    method: MethodConfig = section(MethodConfig, "the AFA loss")
    attack: ContrastiveAttackConfig = section(ContrastiveAttackConfig, "the attack inside a pre-training step")


@dataclasses.dataclass(kw_only=True, frozen=True)
class FinetuneRun(TrainingRun):
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


DEFAULT_ATTACKS = ("pgd-20", "pgd-50x10")


@dataclasses.dataclass(kw_only=True, frozen=True)
class EvaluateRun(BaseRun):
    """Measurement of a classifier, clean and under attack (jobs/evaluate.py)."""

    model: str = setting(
        "",
        "what to measure: run directory of a fine-tuning run or an exported model (a folder or an address), timm:NAME, or "
        "package.module:function, which gives a torch module from pixels in [0, 1] to logits",
    )
    data: DataConfig = section(DataConfig, "which images; by default those the model was trained with")
    part: Literal["test", "held_out"] = setting(
        "test", "images to measure on: test, or the held-out training images (to compare recipes without the test images)"
    )
    threat: ThreatConfig = section(ThreatConfig, "the attack's ball; by default the one the model was trained with")
    attacks: tuple[str, ...] = setting(
        DEFAULT_ATTACKS,
        f"attacks, cheapest first, each on the images still standing: {VALID_ATTACKS}",
    )
    fast: bool = setting(False, "in place of attacks: APGD-CE and APGD-T, half of AutoAttack and not called by its name")
    shard_size: int = setting(
        500,
        "images whose results are kept together, attack by attack; PGD results do not depend on it, AutoAttack's random "
        "numbers do",
        ge=1,
    )
    batch_size: int = setting(
        250, "images attacked at once; less needs less memory; AutoAttack's random numbers depend on it", ge=1
    )
    shard: str = setting(
        "", "i/n: evaluate every n-th shard from the i-th on (1 to n) and stop: for job arrays, whose last word is merge"
    )
    merge: bool = setting(False, "put together what starts with shard i/n left in the run directory; computes no attack")
    time_limit: float = setting(
        0.0, "seconds after which the evaluation stops cleanly (exit code 75); the same command goes on; 0 = none", ge=0
    )
    gpu_share: float = setting(1.0, "part of a GPU that each Ray worker takes: 0.5 puts two on one", gt=0, le=1)

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        if fault := fault_of(self.model):
            yield Problem("model", fault)
        if self.shard and parse_share(self.shard) is None:
            yield Problem("shard", f"{self.shard!r} is not known; write i/n, such as 1/4, the first of four")
        if self.shard and self.merge:
            yield Problem("merge", "comes after all starts with shard; leave one of them out")
        if self.fast and self.attacks != DEFAULT_ATTACKS:
            yield Problem("fast", f"stands for attacks {', '.join(FAST)}; leave out attacks or fast")
        yield from self._attack_problems()

    def _attack_problems(self) -> Iterator[Problem]:
        attacks = list(single_attacks(self.attacks))
        if len(set(attacks)) < len(attacks):
            yield Problem("attacks", f"{', '.join(self.attacks)} names an attack twice; name each once")
        for name in attacks:
            if parse_attack(name) is None:
                yield Problem("attacks", f"{name!r} is not known{meant(name)}; write {VALID_ATTACKS}")

    @property
    def single_attacks(self) -> list[str]:
        """The attacks to run, in order, none of them a group."""
        return list(single_attacks(FAST if self.fast else self.attacks))

    def shards_of(self, count: int) -> list[int]:
        """The numbers of the shards to work on, of `count`."""
        first, step = parse_share(self.shard) or (1, 1)
        return list(range(first - 1, count, step))


def parse_share(text: str) -> tuple[int, int] | None:
    """Read i/n with 1 <= i <= n; None for all else."""
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    return (int(match[1]), int(match[2])) if match and 1 <= int(match[1]) <= int(match[2]) else None


@dataclasses.dataclass(kw_only=True, frozen=True)
class PipelineRun(BaseRun):
    """The stages of a recipe after one another (jobs/pipeline.py); one without pre-training trains from scratch."""

    pretrain: PretrainRun | None = section(lambda: None, "contrastive pre-training, or none")
    finetune: FinetuneRun = section(lambda: FinetuneRun(mode="full"), "the classifier")
    baseline: FinetuneRun | None = section(lambda: None, "a model to compare with, or none")
    evaluate: EvaluateRun = section(EvaluateRun, "the measurement of both")
