"""What attacks may do, in training and in evaluation."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Literal

from afa_dist.config.fields import PixelDistance, Section, setting
from afa_dist.errors import Problem

PIXEL_HINT = "pixels are in [0, 1]: write 8/255 for 8"

SINGLE_STEP = {"fgsm-rs": 1.25, "n-fgsm": 1.0}
"""Length of the step of single-step algorithms in units of eps: their authors' choices (2001.03994, 2202.01181)."""


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
class ThreatConfig(BaseAttackConfig):
    """What the evaluation's attacks may do."""


@dataclasses.dataclass(kw_only=True, frozen=True)
class TrainAttackConfig(BaseAttackConfig):
    """The attack inside a training step."""

    algorithm: Literal["pgd", "fgsm-rs", "n-fgsm"] = setting(
        "pgd",
        "pgd, or one step for pre-screening: fgsm-rs (random start, a step of 1.25 eps; 2001.03994) or n-fgsm (noise of 2 "
        "eps, a step of eps, not brought back into the ball; 2202.01181, L-inf only), for which steps, step_size and "
        "random_start do not count",
    )
    steps: int = setting(10, "gradient steps; 0 = random start only", ge=0)
    step_size: PixelDistance = setting(
        0.0,
        "length of a step, pixel scale; 0 = eps / 4",
        ge=0,
        le=64,
        hint=PIXEL_HINT,
    )
    random_start: bool = setting(True, "start at a random point of the ball instead of at the image")
    bn: Literal["eval", "batch", "train"] = setting(
        "eval", "BatchNorm while attacking: running statistics, the batch's own, or plain training mode (collapses)"
    )
    warmup: float = setting(0.0, "share of training over which eps and the step grow linearly from 0", ge=0, le=1)

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        if self.algorithm == "n-fgsm" and self.norm != "linf":
            yield Problem("algorithm", f"n-fgsm is defined for norm linf, not {self.norm}; use pgd with steps 1")

    def scaled_step(self, eps: float) -> float:
        """Step length when the radius is `eps` (the warm-up shrinks both alike)."""
        if self.algorithm in SINGLE_STEP:
            return eps * SINGLE_STEP[self.algorithm]
        if self.step_size == 0:
            return eps / 4
        return self.step_size * (eps / self.eps if self.eps > 0 else 1.0)

    @property
    def stays_at_image(self) -> bool:
        """Whether the first gradient is taken at the image itself, where a divergence from its prediction has none."""
        return self.algorithm == "pgd" and not self.random_start

    @property
    def gradient_steps(self) -> int:
        """Gradients an image costs: none when nothing may be changed, or for a single step one."""
        if self.eps == 0:
            return 0
        return self.steps if self.algorithm == "pgd" else 1


KL_START = (
    "false leaves an attack on the KL divergence where it is: at the image itself that has no gradient; set it to true, "
    "or choose another objective"
)


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

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        if self.objective == "kl" and self.stays_at_image:
            yield Problem("random_start", KL_START)


@dataclasses.dataclass(kw_only=True, frozen=True)
class ClassifierAttackConfig(TrainAttackConfig):
    """The attack inside a step that trains a classifier."""

    objective: Literal["auto", "ce", "kl", "afa"] = setting(
        "auto",
        "what it maximises: cross-entropy, KL to the clean prediction, or the AFA loss (with afa_weight > 0, clean keys); "
        "auto = ce for objective pgd, kl for objective trades",
    )
