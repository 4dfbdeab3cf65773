"""What changes with the step: learning rate and attack radius, both functions of the step alone."""

from __future__ import annotations

import dataclasses
import math

from afa_dist.config import ScheduleConfig, TrainAttackConfig


@dataclasses.dataclass(frozen=True)
class Schedule:
    """steps_per_epoch turns the epochs of the configuration into steps."""

    schedule: ScheduleConfig
    peak_lr: float
    steps_per_epoch: int

    @property
    def total_steps(self) -> int:
        return self.schedule.epochs * self.steps_per_epoch

    def lr(self, step: int) -> float:
        """Linear warm-up to the peak, then a half cosine to 0 at the end; `step` counts from 0."""
        warmup = self.schedule.warmup * self.total_steps
        if step < warmup:
            return self.peak_lr * (step + 1) / (warmup + 1)
        done = (step - warmup) / max(1.0, self.total_steps - warmup)
        return self.peak_lr * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def attack_eps(attack: TrainAttackConfig, step: int, total_steps: int) -> float:
    """Linear growth from 0 over the attack's warm-up, then the configured radius; `step` counts from 0."""
    warmup = attack.warmup * total_steps
    return attack.eps * min(1.0, step / warmup) if warmup > 0 else attack.eps
