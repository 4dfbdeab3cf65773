"""The set an attack may move in: an L-inf or L2 ball around each image, cut with the pixel range [0, 1].

Legend: B images, ... image dimensions. Distances are on the [0, 1] pixel scale (8/255 is 0.0314).
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch

from afa_dist.distributed.randomness import SlicedRandom

Norm = Literal["linf", "l2"]


def _per_image(values_B: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return values_B.view(-1, *[1] * (like.dim() - 1))


def l2_norm(x: torch.Tensor) -> torch.Tensor:
    """Euclidean length of each image, shape (B,)."""
    return torch.linalg.vector_norm(x.flatten(1), dim=1)


@dataclasses.dataclass(frozen=True)
class Climb:
    """Steps of an attack in the ball around `x`, in place: what does not change from step to step is computed once."""

    ball: Ball
    x: torch.Tensor
    limits: tuple[torch.Tensor, torch.Tensor] | None
    """Lowest and highest allowed pixels of each image, for L-inf."""

    @torch.no_grad()
    def step_(self, x_adv: torch.Tensor, gradient: torch.Tensor, step_size: float) -> None:
        """Move `x_adv` by `step_size` along steepest ascent (L-inf: the sign, L2: the unit gradient), then back into the
        ball."""
        if self.limits is not None:
            x_adv.add_(gradient.sign(), alpha=step_size)
            torch.clamp(x_adv, *self.limits, out=x_adv)
            return
        # A gradient of exactly zero stays a step of zero instead of becoming NaN.
        length_B = l2_norm(gradient).clamp(min=torch.finfo(gradient.dtype).tiny)
        x_adv.add_(gradient / _per_image(length_B, gradient), alpha=step_size)
        x_adv.copy_(self.ball.project(x_adv, self.x))


@dataclasses.dataclass(frozen=True)
class Ball:
    """All x_adv with ||x_adv - x|| <= eps in `norm` and every pixel in [0, 1]."""

    norm: Norm
    eps: float

    def project(self, x_adv: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """A point of the ball for each row of `x_adv`: the nearest one for L-inf; for L2, shrunk then clamped.

        Clamping to [0, 1] only shortens the way to `x`, which lies in the range, so the result is inside both.
        """
        if self.norm == "linf":
            return torch.minimum(torch.maximum(x_adv, x - self.eps), x + self.eps).clamp(0.0, 1.0)
        delta = x_adv - x
        length_B = l2_norm(delta)
        scale_B = torch.where(length_B > self.eps, self.eps / length_B.clamp(min=1e-12), 1.0)
        return (x + delta * _per_image(scale_B, x)).clamp(0.0, 1.0)

    def random_start(self, x: torch.Tensor, random: SlicedRandom) -> torch.Tensor:
        """A random point of the ball: uniform in the cube for L-inf, uniform in the L2 ball, then clamped."""
        if self.norm == "linf":
            return self.project(x + random.uniform(*x.shape[1:], low=-self.eps, high=self.eps).to(x), x)
        direction = random.normal(*x.shape[1:]).to(x)
        radius_B = self.eps * random.uniform().to(x) ** (1.0 / x[0].numel())
        length_B = l2_norm(direction).clamp(min=1e-12)
        return self.project(x + direction * _per_image(radius_B / length_B, x), x)

    def climb(self, x: torch.Tensor) -> Climb:
        """What makes the steps of an attack on `x`."""
        limits = None
        if self.norm == "linf":
            limits = (x - self.eps).clamp_(min=0.0), (x + self.eps).clamp_(max=1.0)
        return Climb(self, x, limits)

    def distance(self, x_adv: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Distance of each row to its image in `norm`, shape (B,)."""
        delta = x_adv - x
        return delta.flatten(1).abs().amax(dim=1) if self.norm == "linf" else l2_norm(delta)
