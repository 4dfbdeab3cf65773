"""The cheap attack on held-out training images that chooses checkpoints.

Legend: N held-out images, B images of one pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from afa_dist.attacks import Ball, attack_mode, cross_entropy, pgd
from afa_dist.config import ThreatConfig
from afa_dist.data.image_set import ImageSet
from afa_dist.distributed import SLICE, SlicedRandom, World, beat
from afa_dist.training.metrics import Meter
from afa_dist.training.step import Step

SLICES_A_PASS = 16
"""Slices of images attacked together; a matter of speed and memory only."""


def validate(step: Step, held_out: ImageSet, threat: ThreatConfig, steps: int, seed: int, world: World) -> dict[str, float]:
    """clean_acc and robust_acc (0 to 1) on `held_out`, each worker taking a share; robust if steps and eps are not 0.

    The start points are the same at every validation of a run, so that epochs differ by their weights alone. An image
    counts as robust only if it is right both clean and attacked.
    """
    meter = Meter(world)
    steps = steps if threat.eps > 0 else 0  # where nothing may be changed, robust accuracy says nothing
    zero = torch.zeros((), device=world.device)
    names = ["clean_acc", "robust_acc"] if steps else ["clean_acc"]
    meter.add(dict.fromkeys(names, (zero, 0)))
    dtype = next(step.net.parameters()).dtype
    for own in own_parts(len(held_out), world):
        x = held_out.images_NCHW[own].to(world.device, dtype) / 255
        y = held_out.labels_N[own].to(world.device)
        with attack_mode(step.net):
            with torch.no_grad():
                right_B = step.logits(x).argmax(dim=1) == y
            meter.add({"clean_acc": (right_B.sum(), len(y))})
            beat()
            if not steps:
                continue
            ball = Ball(threat.norm, threat.eps)
            random = SlicedRandom("validate", seed, start=own.start, count=len(y), device=world.device)
            x_adv = pgd(
                partial(_cross_entropy, step, y),
                x,
                ball,
                steps=steps,
                step_size=2.5 * threat.eps / steps,
                start=ball.random_start(x, random),
            )
            with torch.no_grad():
                robust_B = right_B & (step.logits(x_adv).argmax(dim=1) == y)
            meter.add({"robust_acc": (robust_B.sum(), len(y))})
    return meter.take()


def own_parts(images: int, world: World) -> Iterator[slice]:
    """The held-out images that this worker measures, as many as pass together at a time."""
    # Small held-out sets are shared too: never more than an even share of slices in one pass.
    share = -(-images // (SLICE * world.size)) * SLICE
    chunk = min(SLICE * SLICES_A_PASS, share)
    for number, start in enumerate(range(0, images, chunk)):
        if number % world.size == world.rank:
            yield slice(start, start + chunk)


def _cross_entropy(step: Step, labels_B: torch.Tensor, x_adv: torch.Tensor) -> torch.Tensor:
    return cross_entropy(step.logits(x_adv), labels_B)
