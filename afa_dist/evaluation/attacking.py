"""One attack on images that still stand: which of them fall, and the images that made them fall.

Legend: S images still standing, R of them broken, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from afa_dist.attacks import Ball, attack_mode, cross_entropy, margin, pgd, scaled_cross_entropy
from afa_dist.config.attack_names import AutoAttackPart, PgdName, parse_attack
from afa_dist.distributed import SlicedRandom, derive_seed
from afa_dist.evaluation.autoattack import autoattack_part
from afa_dist.models.norm import folds_kept

_MAXIMISED = {"pgd": cross_entropy, "margin": margin, "scaled": scaled_cross_entropy}

TOLERANCE = 1e-5
"""How far outside the ball rounding may put an image that still counts as attacked within it."""


@contextlib.contextmanager
def measuring(net: nn.Module) -> Iterator[None]:
    """Inside, `net` is as it is attacked, its weights do not change, and a GPU computes in full float32, the same way each
    time."""
    with (
        attack_mode(net),
        folds_kept(),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
    ):
        yield


@dataclasses.dataclass(frozen=True)
class Fallen:
    """Images that an attack broke: their places among those it was given, ascending, and what they were turned into."""

    places_R: torch.Tensor
    x_adv_RCHW: torch.Tensor


def attack_standing(
    net: nn.Module,
    x_SCHW: torch.Tensor,
    y_S: torch.Tensor,
    name: str,
    ball: Ball,
    key: Sequence[int | str],
    indices_S: Sequence[int],
    classes: int,
) -> Fallen:
    """Attack all images at once; call it inside `measuring`.

    Start points of PGD are keyed by (key, attack, restart, index of the image), so that they do not depend on which
    images are attacked together. AutoAttack draws for all at once, keyed by (key, attack, first index).

    Args:
        x_SCHW: pixels in [0, 1], rightly classified.
        indices_S: which images of the test set these are, ascending.
        classes: how many the network tells apart.
    """
    attack = parse_attack(name)
    if isinstance(attack, PgdName):
        return _restarts(net, x_SCHW, y_S, attack, ball, (*key, name), indices_S)
    assert isinstance(attack, AutoAttackPart), name
    x_adv = autoattack_part(net, x_SCHW, y_S, attack, ball, derive_seed(*key, name, indices_S[0]), classes)
    fell_S = misclassified(net, x_adv, x_SCHW, y_S, ball)
    return Fallen(fell_S.nonzero().squeeze(1), x_adv[fell_S])


def _restarts(
    net: nn.Module,
    x_SCHW: torch.Tensor,
    y_S: torch.Tensor,
    attack: PgdName,
    ball: Ball,
    key: Sequence[int | str],
    indices_S: Sequence[int],
) -> Fallen:
    """PGD from each start in turn, on what the starts before left."""
    x_found = x_SCHW.clone()
    standing_S = torch.arange(len(y_S), device=y_S.device)
    start, count = indices_S[0], indices_S[-1] - indices_S[0] + 1
    index_S = torch.tensor(indices_S, device=y_S.device) - start
    for restart in range(attack.restarts):
        if len(standing_S) == 0:
            break
        x, y, keep = x_SCHW[standing_S], y_S[standing_S], index_S[standing_S]
        random = SlicedRandom(*key, restart, start=start, count=count, device=x.device, keep=keep)
        fell_S, x_adv = _attack_once(net, x, y, attack, ball, ball.random_start(x, random))
        x_found[standing_S[fell_S]] = x_adv[fell_S]
        standing_S = standing_S[~fell_S]
    fell_S = torch.ones_like(y_S, dtype=torch.bool).index_fill_(0, standing_S, False)
    return Fallen(fell_S.nonzero().squeeze(1), x_found[fell_S])


def _attack_once(
    net: nn.Module, x: torch.Tensor, y: torch.Tensor, attack: PgdName, ball: Ball, start: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Which images are misclassified at some iterate (the logits are at hand, so every one counts), and the first such."""
    fell_S = torch.zeros_like(y, dtype=torch.bool)
    x_found = x.clone()
    maximised, steps = _MAXIMISED[attack.objective], attack.steps

    def note(x_adv: torch.Tensor, logits: torch.Tensor) -> None:
        new_S = ~is_right(logits, y) & ~fell_S
        fell_S.logical_or_(new_S)
        torch.where(new_S[:, None, None, None], x_adv, x_found, out=x_found)

    def objective(x_adv: torch.Tensor) -> torch.Tensor:
        logits = net(x_adv)
        note(x_adv.detach(), logits.detach())
        return maximised(logits, y)

    # 2.5 eps / steps (Madry et al., 1706.06083): every start can reach every border of the ball and return.
    x_adv = pgd(objective, x, ball, steps=steps, step_size=2.5 * ball.eps / steps, start=start)
    with torch.no_grad():
        note(x_adv, net(x_adv))
        # Seen again by itself: only what can be shown counts.
        return fell_S & misclassified(net, x_found, x, y, ball), x_found


def misclassified(net: nn.Module, x_adv: torch.Tensor, x: torch.Tensor, y: torch.Tensor, ball: Ball) -> torch.Tensor:
    """Which of `x_adv` are allowed and misclassified; what another library returns is checked, not believed."""
    with torch.no_grad():
        return is_allowed(x_adv, x, ball) & ~is_right(net(x_adv), y)


def is_right(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Which rows of `logits` name the class `y`; logits that are not finite name none."""
    return (logits.argmax(dim=1) == y) & torch.isfinite(logits).all(dim=1)


def is_allowed(x_adv: torch.Tensor, x: torch.Tensor, ball: Ball) -> torch.Tensor:
    """Which of `x_adv` lie in the ball around `x` and in [0, 1]."""
    in_range_S = ((x_adv >= 0) & (x_adv <= 1)).flatten(1).all(dim=1)
    return in_range_S & (ball.distance(x_adv, x) <= ball.eps + TOLERANCE)
