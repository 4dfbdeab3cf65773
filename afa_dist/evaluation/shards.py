"""The measurement itself, one fixed shard of the test set at a time.

Legend: N images of the shard, S images still standing, C channels, H height, W width.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import nn

from afa_dist.attacks import Ball, attack_mode, cross_entropy, margin, pgd, scaled_cross_entropy
from afa_dist.config.attack_names import PgdName, parse_attack, single_attacks
from afa_dist.data.image_set import ImageSet
from afa_dist.distributed import SLICE, SlicedRandom, derive_seed
from afa_dist.evaluation.autoattack import autoattack_part

OnAttack = Callable[[str, int], None]
"""Called with the attack that begins and the number of images still standing."""

STANDING = ""
"""In `broken_by`: no attack broke this image."""


@dataclasses.dataclass(frozen=True)
class ShardResult:
    """What happened to each image of one shard; arrays in the order of the test set.

    start: index of the first image. broken_by: "clean" if the clean image is misclassified, the name of the first
    attack that broke it, or `STANDING`. seconds: time of the whole shard.
    """

    start: int
    labels_N: np.ndarray
    predictions_N: np.ndarray
    broken_by_N: list[str]
    seconds: float


def shard_starts(images: int, shard_size: int) -> Iterator[int]:
    """First image of each shard; shards depend on nothing but these two numbers."""
    assert shard_size % SLICE == 0
    yield from range(0, images, shard_size)


def evaluate_shard(
    net: nn.Module,
    test: ImageSet,
    start: int,
    shard_size: int,
    attacks: Sequence[str],
    ball: Ball,
    seed: int,
    on_attack: OnAttack = lambda name, standing: None,
) -> ShardResult:
    """Classify one shard clean, then attack it, cheapest first, each time the images still standing.

    Start points of PGD are keyed by (seed, attack, restart, image), so the result does not depend on who runs the shard
    or on which other images still stand. AutoAttack draws for all standing images of the shard at once, keyed by (seed,
    attack, shard): who runs it does not matter, the shard's size and the attacks before it do.
    """
    began = time.monotonic()
    device = next(net.parameters()).device
    x_NCHW = test.images_NCHW[start : start + shard_size].to(device).float() / 255
    y_N = test.labels_N[start : start + shard_size].to(device)
    with attack_mode(net):
        with torch.no_grad():
            predictions_N = net(x_NCHW).argmax(dim=1)
        broken_by = ["clean" if wrong else STANDING for wrong in (predictions_N != y_N).tolist()]
        for name in single_attacks(attacks):
            standing_S = torch.tensor([i for i, by in enumerate(broken_by) if by == STANDING], device=device)
            if len(standing_S) == 0:
                break
            on_attack(name, len(standing_S))
            attack, key = parse_attack(name), ("evaluate", seed, name)
            if isinstance(attack, PgdName):
                broken = _broken(net, x_NCHW, y_N, standing_S, attack, ball, key, start)
            else:
                assert attack is not None, name
                x_S, y_S = x_NCHW[standing_S], y_N[standing_S]
                x_adv = autoattack_part(net, x_S, y_S, attack, ball, derive_seed(*key, start), len(test.classes))
                broken = standing_S[_misclassified(net, x_adv, x_S, y_S, ball)].tolist()
            for index in broken:
                broken_by[index] = name
    seconds = time.monotonic() - began
    return ShardResult(start, y_N.cpu().numpy(), predictions_N.cpu().numpy(), broken_by, seconds)


def _broken(
    net: nn.Module,
    x_NCHW: torch.Tensor,
    y_N: torch.Tensor,
    standing_S: torch.Tensor,
    attack: PgdName,
    ball: Ball,
    key: tuple[int | str, ...],
    start: int,
) -> list[int]:
    """Indices among `standing_S` that PGD breaks, at any step of any restart."""
    broken: list[int] = []
    for restart in range(attack.restarts):
        if len(standing_S) == 0:
            break
        random = SlicedRandom(*key, restart, start=start, count=len(x_NCHW), device=x_NCHW.device)
        begin = ball.random_start(x_NCHW, random)[standing_S]
        fell_S = _attack_once(net, x_NCHW[standing_S], y_N[standing_S], attack, ball, begin)
        broken.extend(standing_S[fell_S].tolist())
        standing_S = standing_S[~fell_S]
    return broken


_MAXIMISED = {"pgd": cross_entropy, "margin": margin, "scaled": scaled_cross_entropy}

TOLERANCE = 1e-5
"""How far outside the ball rounding may put an image that still counts as attacked within it."""


def _misclassified(net: nn.Module, x_adv: torch.Tensor, x: torch.Tensor, y: torch.Tensor, ball: Ball) -> torch.Tensor:
    """Which of `x_adv` are allowed and misclassified; what another library returns is checked, not believed."""
    allowed_S = ball.distance(x_adv, x) <= ball.eps + TOLERANCE
    allowed_S &= ((x_adv >= 0) & (x_adv <= 1)).flatten(1).all(dim=1)
    with torch.no_grad():
        return allowed_S & (net(x_adv).argmax(dim=1) != y)


def _attack_once(
    net: nn.Module, x: torch.Tensor, y: torch.Tensor, attack: PgdName, ball: Ball, begin: torch.Tensor
) -> torch.Tensor:
    """Which images are misclassified at some iterate (the logits are at hand, so every one of them counts)."""
    fell_S = torch.zeros_like(y, dtype=torch.bool)
    maximised, steps = _MAXIMISED[attack.objective], attack.steps

    def objective(x_adv: torch.Tensor) -> torch.Tensor:
        logits = net(x_adv)
        fell_S.logical_or_(logits.detach().argmax(dim=1) != y)
        return maximised(logits, y)

    # 2.5 eps / steps (Madry et al., 1706.06083): every start can reach every border of the ball and return.
    x_adv = pgd(objective, x, ball, steps=steps, step_size=2.5 * ball.eps / steps, start=begin)
    with torch.no_grad():
        return fell_S | (net(x_adv).argmax(dim=1) != y)
