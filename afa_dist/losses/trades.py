"""The TRADES loss.

Legend: B images, K classes.
"""

from __future__ import annotations

import torch

from afa_dist.attacks.objectives import kl_to_clean
from afa_dist.losses.smoothing import smoothed_cross_entropy


def trades_loss(
    clean_logits_BK: torch.Tensor,
    adv_logits_BK: torch.Tensor,
    labels_B: torch.Tensor,
    *,
    beta: float,
    label_smoothing: float | torch.Tensor = 0.0,
) -> torch.Tensor:
    """Loss of each image, shape (B,): cross-entropy of the clean logits + beta * KL(p_clean || p_adv).

    TRADES (Zhang et al., 1901.08573), eq. 5, with the divergence of the authors' code. The gradient flows through
    both predictions; it is the attack that sees a fixed clean one. Label smoothing, one for all images or one each (B,),
    concerns the cross-entropy only.
    """
    natural_B = smoothed_cross_entropy(clean_logits_BK, labels_B, label_smoothing)
    return natural_B + beta * kl_to_clean(adv_logits_BK, clean_logits_BK)
