"""Local Lipschitzness: how far an output moves, at most, for a small change of the image.

Legend: B images, C channels, H height, W width, D outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from afa_dist.attacks import Ball

STEPS = 10

STEP_SIZE = 0.003 / (8 / 255)
"""In units of the radius: 0.003 at 8/255. So ten steps just reach the border of the ball, whatever its radius."""

START = 0.001 / (8 / 255)
"""Deviation of the random start, in units of the radius: 0.001 at 8/255."""


def radius_of(ball: Ball, x_BCHW: torch.Tensor) -> float:
    """The L-inf radius to search in: that of an L-inf ball; for an L2 ball, of the largest cube inside it."""
    return ball.eps if ball.norm == "linf" else ball.eps / math.sqrt(x_BCHW[0].numel())


def local_lipschitz(
    output: Callable[[torch.Tensor], torch.Tensor], x_BCHW: torch.Tensor, noise_BCHW: torch.Tensor, eps: float
) -> torch.Tensor:
    """|output(x) - output(x')|_1 / |x - x'|_inf of each image, shape (B,), at an x' of the ball that makes it large.

    Yang et al. (2003.02460), with the norms, steps and step length of their code (yangarbiter/robust-local-lipschitz),
    whose radius is 8/255: from x + 0.001 * normal, ten steps of 0.003 along the sign of the ratio's gradient, each brought
    back into the ball and into [0, 1]; the ratio at the last point counts. Here steps and noise grow with the radius
    (`STEP_SIZE`, `START`). The paper maximises; the code, as it stands, steps along the gradient of the ratio's negative,
    which we do not follow. A local search: the true constant may be larger.

    Call it inside `measuring`.

    Args:
        output: pixels (B, C, H, W) to outputs (B, D), of each image by itself.
        noise_BCHW: standard normal.
        eps: L-inf radius, > 0.
    """
    ball = Ball("linf", eps)
    climb = ball.climb(x_BCHW)
    with torch.no_grad():
        clean_BD = output(x_BCHW)
    x_near = x_BCHW + START * eps * noise_BCHW
    for _ in range(STEPS):
        x_near.requires_grad_(True)
        with torch.enable_grad():
            ratio_B = _ratio(output(x_near), clean_BD, x_near, x_BCHW)
            (gradient,) = torch.autograd.grad(ratio_B.sum(), x_near)
        x_near = x_near.detach()
        climb.step_(x_near, gradient, STEP_SIZE * eps)
    with torch.no_grad():
        return _ratio(output(x_near), clean_BD, x_near, x_BCHW)


def _ratio(near_BD: torch.Tensor, clean_BD: torch.Tensor, x_near: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    moved_B = (x_near - x).flatten(1).abs().amax(dim=1)
    # An image that cannot move (it never happens at eps > 0) counts as smooth.
    return (near_BD - clean_BD).flatten(1).abs().sum(dim=1) / moved_B.clamp(min=1e-12)


def summary(ratio_N: torch.Tensor) -> dict[str, float]:
    """Mean (the figure of the paper), median and 95th percentile over the images."""
    ratio_N = ratio_N.double()
    quantiles = torch.quantile(ratio_N, torch.tensor([0.5, 0.95], dtype=torch.float64))
    return {"mean": float(ratio_N.mean()), "median": float(quantiles[0]), "p95": float(quantiles[1])}
