"""Cross-entropy with labels that are not fully trusted.

Legend: B images, K classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def smoothed_cross_entropy(
    logits_BK: torch.Tensor, labels_B: torch.Tensor, smoothing: float | torch.Tensor = 0.0
) -> torch.Tensor:
    """Cross-entropy of each image, shape (B,), a share `smoothing` of its label spread over all classes (1512.00567).

    smoothing: 0 to below 1, one for all images or one each (B,).
    """
    if not isinstance(smoothing, torch.Tensor):
        return F.cross_entropy(logits_BK, labels_B, reduction="none", label_smoothing=smoothing)
    hard_B = F.cross_entropy(logits_BK, labels_B, reduction="none")
    spread_B = -F.log_softmax(logits_BK, dim=1).mean(dim=1).to(hard_B.dtype)
    smoothing = smoothing.to(hard_B.dtype)
    return (1 - smoothing) * hard_B + smoothing * spread_B
