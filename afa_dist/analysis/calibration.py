"""Whether a network is as often right as it says.

Legend: N images, K classes, M bins.
"""

from __future__ import annotations

from typing import Any

import torch

BINS = 15


def calibration(logits_NK: torch.Tensor, y_N: torch.Tensor) -> dict[str, Any]:
    """Expected calibration error and its bins (Guo et al., 1706.04599, eq. 3): the mean, over images, of the distance
    between accuracy and mean confidence in each of `BINS` bins of equal width (low, high] of the greatest probability.

    A bin without images has confidence and accuracy None.
    """
    probabilities_NK = logits_NK.double().softmax(dim=1)
    confidence_N, predicted_N = probabilities_NK.max(dim=1)
    right_N = (predicted_N == y_N).double()
    edges_M = torch.linspace(0, 1, BINS + 1, dtype=torch.float64, device=logits_NK.device)
    bin_N = torch.bucketize(confidence_N, edges_M[1:-1], right=False)
    counts_M = torch.bincount(bin_N, minlength=BINS)
    sums = {name: torch.bincount(bin_N, values_N, minlength=BINS) for name, values_N in _named(confidence_N, right_N)}
    gap = (sums["confidence"] - sums["accuracy"]).abs().sum() / len(y_N)
    bins = []
    for index, count in enumerate(counts_M.tolist()):
        means = {name: float(values_M[index]) / count if count else None for name, values_M in sums.items()}
        bins.append({"low": float(edges_M[index]), "high": float(edges_M[index + 1]), "count": count, **means})
    return {"ece": float(gap), "bins": bins}


def _named(confidence_N: torch.Tensor, right_N: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
    return [("confidence", confidence_N), ("accuracy", right_N)]
