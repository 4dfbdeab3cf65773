"""Means over a global batch in which generated images count for more or less than real ones.

Legend: B images of this worker, G images of the global batch.
"""

from __future__ import annotations

import torch

from afa_dist.data.loader import Batch


def weights_of(batch: Batch, weight: float) -> torch.Tensor | None:
    """The weight of each of this worker's images (B,), fp64, such that the mean over workers of their weighted sums is the
    weighted mean over the global batch; None where all are equal.

    The sum of all weights is known without asking anyone, since every worker knows which images are generated.
    """
    if batch.generated_G is None or weight == 1:
        return None
    weight_G = torch.ones_like(batch.generated_G, dtype=torch.float64).masked_fill(batch.generated_G, weight)
    count = len(batch.images_BCHW)
    return weight_G[batch.start : batch.start + count] * (len(weight_G) / count / weight_G.sum())


def mean(loss_B: torch.Tensor, batch: Batch, weight: float) -> torch.Tensor:
    """The mean of the losses of this worker's images, generated ones with `weight`; averaged over workers it is the mean
    over the global batch."""
    weight_B = weights_of(batch, weight)
    return loss_B.mean() if weight_B is None else (loss_B * weight_B.to(loss_B.dtype)).sum()


def smoothing_of(batch: Batch, real: float, generated: float | None) -> float | torch.Tensor:
    """Label smoothing of this worker's images: one for all, or one each (B,), in fp64."""
    if batch.generated_G is None or generated is None or generated == real:
        return real
    own = batch.generated_G[batch.start : batch.start + len(batch.images_BCHW)]
    return torch.full_like(own, real, dtype=torch.float64).masked_fill(own, generated)
