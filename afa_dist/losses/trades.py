"""The TRADES loss.

Legend: B images, K classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from afa_dist.attacks.objectives import kl_to_clean


def trades_loss(
    clean_logits_BK: torch.Tensor,
    adv_logits_BK: torch.Tensor,
    labels_B: torch.Tensor,
    *,
    beta: float,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Loss of each image, shape (B,): cross-entropy of the clean logits + beta * KL(p_clean || p_adv).

    TRADES (Zhang et al., 1901.08573), eq. 5, with the divergence of the authors' code. The gradient flows through
    both predictions; it is the attack that sees a fixed clean one. Label smoothing concerns the cross-entropy only.
    """
    natural_B = F.cross_entropy(clean_logits_BK, labels_B, reduction="none", label_smoothing=label_smoothing)
    return natural_B + beta * kl_to_clean(adv_logits_BK, clean_logits_BK)
