"""What an attack on a classifier maximises, per image.

Legend: B images, K classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def cross_entropy(logits_BK: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each image, shape (B,)."""
    return F.cross_entropy(logits_BK, labels_B, reduction="none")


def kl_to_clean(logits_BK: torch.Tensor, clean_logits_BK: torch.Tensor) -> torch.Tensor:
    """KL(p_clean || p_adv) of each image, shape (B,): the clean prediction is the target (TRADES, 1901.08573)."""
    return F.kl_div(
        F.log_softmax(logits_BK, dim=1), F.log_softmax(clean_logits_BK, dim=1), reduction="none", log_target=True
    ).sum(dim=1)


def margin(logits_BK: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
    """Best wrong logit minus the right one (Carlini & Wagner, 1608.04644), shape (B,); above 0 means misclassified."""
    right_B = logits_BK.gather(1, labels_B[:, None]).squeeze(1)
    wrong_B = logits_BK.scatter(1, labels_B[:, None], -torch.inf).amax(dim=1)
    return wrong_B - right_B


def scaled_cross_entropy(logits_BK: torch.Tensor, labels_B: torch.Tensor, scale: float = 5.0) -> torch.Tensor:
    """Cross-entropy of `scale` times the logits, shape (B,).

    Heads on unit-length features can have tiny logits whose softmax never saturates, or huge ones that make the
    gradient vanish; attacking scaled logits tells one from the other (SupRobCon evaluates with a factor of 5).
    """
    return cross_entropy(scale * logits_BK, labels_B)
