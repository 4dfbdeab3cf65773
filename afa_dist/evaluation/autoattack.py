"""The attacks of AutoAttack's standard version, from the package pyautoattack (the authors' code, packaged).

Legend: S images still standing, C channels, H height, W width.
"""

from __future__ import annotations

import torch
from torch import nn

from afa_dist.attacks import Ball
from afa_dist.config.attack_names import AutoAttackPart

FEWEST_CLASSES = 4
"""The targeted DLR loss of APGD-T compares the four largest logits (2003.01690, eq. 7)."""

TARGETS = 9
"""Wrong classes that the targeted attacks try, where there are so many."""

_NORMS = {"linf": "Linf", "l2": "L2"}


def autoattack_part(
    net: nn.Module, x_SCHW: torch.Tensor, y_S: torch.Tensor, attack: AutoAttackPart, ball: Ball, seed: int, classes: int
) -> torch.Tensor:
    """x_adv (S, C, H, W) of one part, with the standard version's numbers of steps, targets and queries.

    Call it inside `attack_mode`. Random numbers come from `seed` alone and for all images together, so that an image's
    result depends on which others are attacked with it; the generators of the process are left as they were.
    """
    from pyautoattack import AutoAttack  # takes a second to import, and only this needs it

    device = x_SCHW.device
    whole = AutoAttack(net, norm=_NORMS[ball.norm], eps=ball.eps, seed=seed, version="standard", device=device)
    targets = min(TARGETS, classes - 1)
    whole.apgd_targeted.n_target_classes = targets
    whole.fab.n_target_classes = targets
    whole.fab.targeted = True
    parts = {"apgd-ce": whole.apgd, "apgd-t": whole.apgd_targeted, "fab-t": whole.fab, "square": whole.square}
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.no_grad():
        return parts[attack.name].perturb(x_SCHW, y_S).detach()
