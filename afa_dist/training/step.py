"""What every training step shares: its result, and how it runs the network.

Legend: B images of this worker.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import nn

from afa_dist.attacks import Ball, Objective, n_fgsm, pgd
from afa_dist.config import TrainAttackConfig
from afa_dist.data.loader import Batch
from afa_dist.distributed import SlicedRandom


@dataclasses.dataclass(frozen=True)
class StepOutput:
    """The loss to differentiate (this worker's mean), and metrics as (sum, count) over this worker's images."""

    loss: torch.Tensor
    sums: Mapping[str, tuple[torch.Tensor, int]]


class Trained(Protocol):
    """What a training loop moves the weights of."""

    forward: nn.Module
    """`net`, or its DDP wrapper: what the outer pass calls."""

    @property
    def net(self) -> nn.Module:
        """What is trained and saved, without a DDP wrapper."""
        ...

    @property
    def backbone(self) -> nn.Module:
        """The part of `net` that is worth compiling."""
        ...

    def parameters(self) -> list[nn.Parameter]:
        """The parameters this stage trains."""
        ...

    def train_mode(self) -> None:
        """Put the network in this stage's training mode."""
        ...


class Step(Trained, Protocol):
    """One stage's step: from a batch to adversarial images, and from those to a loss. It moves no weights."""

    def attack(self, batch: Batch, step: int, eps: float) -> torch.Tensor:
        """x_adv (B, C, H, W) for `batch` at attack radius `eps`, found on the unwrapped network."""
        ...

    def loss(self, batch: Batch, x_adv_BCHW: torch.Tensor) -> StepOutput:
        """What the weights minimise, on `batch` and its adversarial images."""
        ...

    def logits(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Class scores (B, K), differentiable in `x_BCHW`: what validation attacks."""
        ...


def autocast(device: torch.device, bf16: bool) -> contextlib.AbstractContextManager[object]:
    """bf16 autocast for network passes, or nothing."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if bf16 else contextlib.nullcontext()


def find_adversarial(
    objective: Objective, batch: Batch, attack: TrainAttackConfig, *, eps: float, seed: int, step: int
) -> torch.Tensor:
    """x_adv (B, C, H, W) by a training attack of radius `eps`; start points are the same for any number of workers."""
    x, ball, step_size = batch.images_BCHW, Ball(attack.norm, eps), attack.scaled_step(eps)
    random = SlicedRandom("attack", seed, step, start=batch.start, count=len(x), device=x.device)
    if attack.algorithm == "n-fgsm":
        return n_fgsm(objective, x, random, eps=eps, step_size=step_size)
    single = attack.algorithm == "fgsm-rs"
    start = ball.random_start(x, random) if attack.random_start or single else None
    return pgd(objective, x, ball, steps=1 if single else attack.steps, step_size=step_size, start=start)


def correct(logits_BK: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
    """Number of right predictions, a 0-d tensor."""
    return (logits_BK.detach().argmax(dim=1) == labels_B).sum()
