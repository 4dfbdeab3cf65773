"""N-FGSM: one gradient step from a noisy image, cheap enough to screen settings with.

Legend: B images, C channels, H height, W width.
"""

from __future__ import annotations

import torch

from afa_dist.attacks.pgd import Objective
from afa_dist.distributed.randomness import SlicedRandom

NOISE = 2.0
"""Half width of the noise in units of eps (k in the paper, whose choice for eps 8/255 is 2)."""


def n_fgsm(
    objective: Objective, x_BCHW: torch.Tensor, random: SlicedRandom, *, eps: float, step_size: float
) -> torch.Tensor:
    """x_adv = x + noise + step_size * sign(gradient at x + noise), pixels kept in [0, 1] (de Jorge et al., 2202.01181).

    The noise is uniform in [-2 eps, 2 eps] and the result is not brought back into the eps ball: that is what keeps
    single-step training from collapsing ("catastrophic overfitting"). So it may leave the threat model; it is for
    training only.
    """
    x = x_BCHW.detach()
    noisy = (x + random.uniform(*x.shape[1:], low=-NOISE * eps, high=NOISE * eps).to(x)).clamp(0.0, 1.0)
    noisy.requires_grad_(True)
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(objective(noisy).sum(), noisy)
    return (noisy.detach() + step_size * gradient.sign()).clamp(0.0, 1.0)
