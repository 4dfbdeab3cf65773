"""The training step that benchmarks measure: AFA pre-training with clean keys on 32x32 images at 8/255."""

from __future__ import annotations

from afa_dist.config import ContrastiveAttackConfig, ModelConfig, PretrainRun, ScalingConfig, ScheduleConfig
from afa_dist.models.build import DataShape

SHAPE = DataShape(3, (0.5,) * 3, (0.25,) * 3, tuple("0123456789"))
EPS = 8 / 255


def afa_run(arch: str, batch: int, steps: int, precision: str, width: int = 0) -> PretrainRun:
    """batch: images of the global batch. steps: of PGD. width: channels of the first stage, 0 = the architecture's own."""
    return PretrainRun(
        model=ModelConfig(arch=arch, width=width),
        attack=ContrastiveAttackConfig(eps=EPS, steps=steps, step_size=2 / 255),
        schedule=ScheduleConfig(batch_size=batch),
        scaling=ScalingConfig(precision=precision, compile="off"),
    )
