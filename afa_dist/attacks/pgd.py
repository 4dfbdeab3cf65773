"""Projected gradient descent (Madry et al., arXiv 1706.06083), for any objective.

Legend: B images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from afa_dist.attacks.ball import Ball
from afa_dist.distributed import beat

Objective = Callable[[torch.Tensor], torch.Tensor]
"""Maps x_adv (B, C, H, W) to what the attacker wants large: one value per image, or their sum."""


def pgd(
    objective: Objective,
    x_BCHW: torch.Tensor,
    ball: Ball,
    *,
    steps: int,
    step_size: float,
    start: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return x_adv in `ball` around `x_BCHW` after `steps` ascent steps on `objective`.

    Only the input is differentiated; call it inside `attack_mode`, on the module without its DDP wrapper. Nothing is
    synchronised with the host.

    Args:
        objective: see `Objective`; summed here, so an image's step does not depend on the batch size.
        x_BCHW: clean images in [0, 1].
        ball: threat model; eps 0 returns the images unchanged.
        steps: number of gradient steps, >= 0.
        step_size: length of a step on the pixel scale.
        start: where to begin, for example `ball.random_start`; None begins at the clean images.
    """
    x = x_BCHW.detach()
    x_adv = x.clone() if start is None else ball.project(start.detach(), x)
    climb = ball.climb(x)
    x_adv.requires_grad_(True)
    for _ in range(steps):
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(objective(x_adv).sum(), x_adv)
        climb.step_(x_adv, gradient, step_size)
        beat()
    return x_adv.detach()
