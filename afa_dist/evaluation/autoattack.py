"""The attacks of AutoAttack's versions, from the package pyautoattack (the authors' code, packaged).

Legend: S images still standing, C channels, H height, W width.
"""

from __future__ import annotations

import logging
from importlib.metadata import version
from typing import Any

import torch
from torch import nn

from afa_dist.attacks import Ball
from afa_dist.config.attack_names import TARGETS, AutoAttackPart

FEWEST_CLASSES = {"apgd-dlr": 3, "apgd-t": 4}
"""The DLR loss compares the three largest logits, the targeted one the four largest (2003.01690, eq. 6 and 7)."""

_NORMS = {"linf": "Linf", "l2": "L2"}


def autoattack_version() -> str:
    """Of the package that the attacks come from."""
    return f"pyautoattack {version('pyautoattack')}"


def autoattack_part(
    net: nn.Module, x_SCHW: torch.Tensor, y_S: torch.Tensor, attack: AutoAttackPart, ball: Ball, seed: int, classes: int
) -> torch.Tensor:
    """x_adv (S, C, H, W) of one part, with the numbers of steps, targets and queries of its version.

    Call it inside `attack_mode`. Random numbers come from `seed` alone and for all images together, so that an image's
    result depends on which others are attacked with it; the generators of the process are left as they were.
    """
    part = _part(net, attack, ball, seed, x_SCHW.device, classes)
    devices = [x_SCHW.device] if x_SCHW.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        return part.perturb(x_SCHW, y_S).detach()


def _part(net: nn.Module, attack: AutoAttackPart, ball: Ball, seed: int, device: torch.device, classes: int) -> Any:
    from pyautoattack import AutoAttack  # takes a second to import, and only this needs it

    logging.getLogger("auto-attack").setLevel(logging.ERROR)  # zero gradients are told by our own probe

    whole = AutoAttack(net, norm=_NORMS[ball.norm], eps=ball.eps, seed=seed, version="standard", device=device)
    targets = min(TARGETS, classes - 1)
    if attack.kind in ("apgd-ce", "apgd-dlr"):
        whole.apgd.loss = attack.kind.removeprefix("apgd-")
        whole.apgd.n_restarts, whole.apgd.eot_iter = attack.restarts, attack.eot
        return whole.apgd
    if attack.kind == "apgd-t":
        whole.apgd_targeted.n_target_classes = targets
        return whole.apgd_targeted
    if attack.kind in ("fab", "fab-t"):
        whole.fab.targeted = attack.kind == "fab-t"
        whole.fab.n_restarts, whole.fab.n_target_classes = attack.restarts, targets
        return whole.fab
    return whole.square
