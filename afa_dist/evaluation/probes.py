"""What is asked of a network beside its attacks: would they show anything at all? And: is what they showed true?

Legend: N images, R broken ones, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from afa_dist.attacks import Ball, cross_entropy, margin, pgd
from afa_dist.distributed import SlicedRandom
from afa_dist.evaluation.attacking import is_allowed, is_right, measuring
from afa_dist.evaluation.evaluator import ShardEvaluator

PROBED = 128
"""Images that are probed, evenly over those classified rightly."""

REPEATS = 5
NOISES = 20
HUGE_STEPS = 50

ROUNDING = 1e-4
"""Of the greatest logit: batches of other sizes round otherwise, and so little may tip an image that lies on the border."""


def probe(evaluator: ShardEvaluator, indices_N: np.ndarray) -> dict[str, Any]:
    """Figures that `warnings_of` judges, of images that are classified rightly.

    Returned: images; noise_broken, the indices that random points of the ball break; huge_eps and huge_eps_acc, the
    accuracy when every image can be reached; zero_gradients, a share; differs, the greatest distance of the directions of
    logits in passes that should be equal; keeps_state, whether passes leave all buffers as they were; probabilities,
    whether the logits look like these.
    """
    with measuring(evaluator.net):
        before = {name: buffer.clone() for name, buffer in evaluator.net.named_buffers()}
        parts = [_probe_batch(evaluator, batch) for batch in evaluator.batches(indices_N)]
        after = dict(evaluator.net.named_buffers())
    count = len(indices_N)
    return {
        "images": count,
        "noise_broken": [index for part in parts for index in part["noise_broken"]],
        "huge_eps": parts[0]["huge_eps"],
        "huge_eps_acc": sum(part["huge_standing"] for part in parts) / count,
        "zero_gradients": sum(part["zero_gradients"] for part in parts) / count,
        "differs": max(part["differs"] for part in parts),
        "probabilities": all(part["probabilities"] for part in parts),
        "keeps_state": all(torch.equal(value, after[name]) for name, value in before.items()),
    }


def _probe_batch(evaluator: ShardEvaluator, indices_B: np.ndarray) -> dict[str, Any]:
    """The same of one batch, as counts."""
    x, y = evaluator.images(indices_B)
    logits = [evaluator.logits(x) for _ in range(REPEATS)]
    huge = math.sqrt(x[0].numel()) if evaluator.ball.norm == "l2" else 1.0
    return {
        "noise_broken": indices_B[_broken_by_noise(evaluator, x, y, int(indices_B[0])).cpu().numpy()].tolist(),
        "huge_eps": huge,
        "huge_standing": _standing_at(evaluator, x, y, huge),
        "zero_gradients": _zero_gradients(evaluator, x, y),
        "differs": max(_direction_distance(logits[0], other) for other in logits[1:]),
        "probabilities": _like_probabilities(logits[0]),
    }


def recheck(evaluator: ShardEvaluator, indices_R: np.ndarray, x_adv_RCHW: torch.Tensor) -> tuple[int, list[int]]:
    """How many images were looked at again, and indices of those that do not hold: they lie outside the ball or the pixel
    range, or are classified rightly, beyond rounding."""
    looked, failed = 0, []
    for batch in evaluator.batches(indices_R):
        x, y = evaluator.images(batch)
        x_adv = x_adv_RCHW[looked : looked + len(batch)].to(evaluator.device)
        with measuring(evaluator.net), torch.no_grad():
            logits = evaluator.net(x_adv)
        right = -margin(logits, y) > ROUNDING * logits.abs().amax(dim=1)
        holds = is_allowed(x_adv, x, evaluator.ball) & ~right
        looked += len(holds)
        failed.extend(batch[~holds.cpu().numpy()].tolist())
    return looked, failed


def _broken_by_noise(evaluator: ShardEvaluator, x: torch.Tensor, y: torch.Tensor, first: int) -> torch.Tensor:
    """Which images some of `NOISES` random points of the ball break: corners of it (L-inf), or its border (L2)."""
    ball = evaluator.ball
    fell_N = torch.zeros_like(y, dtype=torch.bool)
    for draw in range(NOISES):
        random = SlicedRandom("probe", evaluator.run.seed, first, draw, start=0, count=len(y), device=x.device)
        noise = random.normal(*x.shape[1:]).to(x)
        if ball.norm == "linf":
            noise = noise.sign() * ball.eps
        else:
            noise *= ball.eps / noise.flatten(1).norm(dim=1).clamp(min=1e-12)[:, None, None, None]
        with torch.no_grad():
            fell_N |= ~is_right(evaluator.net((x + noise).clamp(0, 1)), y)
    return fell_N


def _standing_at(evaluator: ShardEvaluator, x: torch.Tensor, y: torch.Tensor, eps: float) -> int:
    """Images that stand PGD in a ball that holds every image. Where gradients lead somewhere, next to none does."""
    ball = Ball(evaluator.ball.norm, eps)
    x_adv = pgd(
        lambda x_adv: cross_entropy(evaluator.net(x_adv), y), x, ball, steps=HUGE_STEPS, step_size=2.5 * eps / HUGE_STEPS
    )
    with torch.no_grad():
        return int(is_right(evaluator.net(x_adv), y).sum())


def _zero_gradients(evaluator: ShardEvaluator, x: torch.Tensor, y: torch.Tensor) -> int:
    """Number of images at which the cross-entropy has no gradient at all."""
    x = x.clone().requires_grad_(True)
    with torch.enable_grad():
        loss = cross_entropy(evaluator.net(x), y).sum()
        (gradient,) = torch.autograd.grad(loss, x, allow_unused=True) if loss.requires_grad else (None,)
    if gradient is None:
        return len(y)
    return int((gradient.flatten(1).abs().amax(dim=1) == 0).sum())


def _direction_distance(one_NK: torch.Tensor, other_NK: torch.Tensor) -> float:
    unit = torch.nn.functional.normalize
    return float((unit(one_NK, dim=1) - unit(other_NK, dim=1)).norm(dim=1).max())


def _like_probabilities(logits_NK: torch.Tensor) -> bool:
    sums = logits_NK.sum(dim=1)
    return bool((logits_NK >= 0).all() and (logits_NK <= 1 + 1e-5).all() and ((sums - 1).abs() < 1e-5).all())
