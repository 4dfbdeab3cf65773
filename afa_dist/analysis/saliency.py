"""Which pixels a prediction depends on, for images as they are and attacked.

Legend: M images, C channels, H height, W width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

IMAGES = 16

STEPS = 50
"""Points on the way from black to the image, of integrated gradients (captum's default)."""


def saliency_maps(net: nn.Module, x_MCHW: torch.Tensor, y_M: torch.Tensor, batch_size: int) -> dict[str, torch.Tensor]:
    """What the logit of each image's own class owes to each pixel, (M, C, H, W), signed.

    gradient: its derivative (Simonyan et al., 1312.6034). integrated: integrated gradients from a black image (Sundararajan
    et al., 1703.01365, eq. 1), whose sum is the logit less that of the black image. Both by captum.

    Call it inside `measuring`.
    """
    from captum.attr import IntegratedGradients, Saliency

    x = x_MCHW.clone().requires_grad_(True)
    with torch.enable_grad():
        gradient = Saliency(net).attribute(x, target=y_M, abs=False)
        integrated = IntegratedGradients(net).attribute(x, target=y_M, n_steps=STEPS, internal_batch_size=batch_size)
    return {"gradient": gradient.detach().float(), "integrated": integrated.detach().float()}


def drawn(map_MCHW: torch.Tensor) -> torch.Tensor:
    """A map as it is looked at, (M, H, W): absolute values, summed over channels."""
    return map_MCHW.abs().sum(dim=1)


def mean_cosine(clean_MCHW: torch.Tensor, adv_MCHW: torch.Tensor) -> float:
    """Mean over images of the cosine between both maps, with their signs; 1 where the attack changes no direction."""
    return float(F.cosine_similarity(clean_MCHW.flatten(1).double(), adv_MCHW.flatten(1).double(), dim=1).mean())
