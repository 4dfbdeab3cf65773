"""Threat models, one PGD engine, and what it can maximise."""

from afa_dist.attacks.ball import Ball, Norm
from afa_dist.attacks.mode import BnPolicy, attack_mode
from afa_dist.attacks.objectives import cross_entropy, kl_to_clean, margin, scaled_cross_entropy
from afa_dist.attacks.pgd import Objective, pgd
from afa_dist.attacks.single_step import n_fgsm

__all__ = [
    "Ball",
    "BnPolicy",
    "Norm",
    "Objective",
    "attack_mode",
    "cross_entropy",
    "kl_to_clean",
    "margin",
    "n_fgsm",
    "pgd",
    "scaled_cross_entropy",
]
