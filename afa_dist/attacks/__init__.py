"""Threat models, one PGD engine, and what it can maximise."""

from afa_dist.attacks.ball import Ball, Norm
from afa_dist.attacks.mode import BnPolicy, attack_mode
from afa_dist.attacks.objectives import cross_entropy, kl_to_clean, margin, scaled_cross_entropy
from afa_dist.attacks.pgd import Objective, pgd

__all__ = [
    "Ball",
    "BnPolicy",
    "Norm",
    "Objective",
    "attack_mode",
    "cross_entropy",
    "kl_to_clean",
    "margin",
    "pgd",
    "scaled_cross_entropy",
]
