"""How features lie among those of their own class and of others: the alignment that AFA is named after.

Legend: N images that are looked at, R clean images that they are compared with, T training images, F features, K classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

NEIGHBOURS = (5, 20)
"""Numbers of training images that vote in the accuracy of nearest neighbours."""

ROWS = 512
"""Images whose distances to all others are held at once."""


def alignment(
    z_NF: torch.Tensor,
    y_N: torch.Tensor,
    clean_RF: torch.Tensor,
    y_R: torch.Tensor,
    own_N: torch.Tensor,
) -> dict[str, float]:
    """Figures of unit-length features `z_NF` among the clean ones `clean_RF`.

    within_distance, between_distance: mean Euclidean distance over all pairs of an image and a clean image of its class,
    of another class. within_cosine, between_cosine: likewise. misaligned_means: share of images nearer to the mean of
    another class than to that of their own. misaligned_neighbours: share whose nearest clean image is of another class.
    These shares are what AFA (2402.12187) calls misaligned. Everywhere an image's own clean version is left out; an image
    without another one of its class has no share in what is said of classes.

    Args:
        own_N: the row of `clean_RF` that is the clean version of each image.
    """
    parts = [_rows(z_NF[rows], y_N[rows], clean_RF, y_R, own_N[rows]) for rows in _chunks(len(z_NF))]
    total = {name: sum(part[name] for part in parts) for name in parts[0]}
    return {
        "within_distance": _share(total["within_distance"], total["within"]),
        "between_distance": _share(total["between_distance"], total["between"]),
        "within_cosine": _share(total["within_cosine"], total["within"]),
        "between_cosine": _share(total["between_cosine"], total["between"]),
        "misaligned_means": _share(total["misaligned_means"], total["images"]),
        "misaligned_neighbours": _share(total["misaligned_neighbours"], total["images"]),
    }


def _rows(
    z_NF: torch.Tensor, y_N: torch.Tensor, clean_RF: torch.Tensor, y_R: torch.Tensor, own_N: torch.Tensor
) -> dict[str, float]:
    """Sums of a few rows."""
    other_NR = torch.ones(len(z_NF), len(clean_RF), dtype=torch.bool, device=z_NF.device).scatter_(1, own_N[:, None], False)
    same_NR = y_N[:, None] == y_R
    within_NR, between_NR = same_NR & other_NR, ~same_NR
    # The way by a matrix product would lose the small distances to rounding.
    distance_NR = torch.cdist(z_NF, clean_RF, compute_mode="donot_use_mm_for_euclid_dist")
    cosine_NR = z_NF @ clean_RF.T
    counted_N = within_NR.any(dim=1) & between_NR.any(dim=1)
    near = distance_NR.masked_fill(~within_NR, torch.inf).amin(dim=1)
    near_other = distance_NR.masked_fill(~between_NR, torch.inf).amin(dim=1)
    own_mean_N, other_mean_N = _to_means(z_NF, y_N, clean_RF, y_R, own_N)
    return {
        "within": int(within_NR.sum()),
        "between": int(between_NR.sum()),
        "images": int(counted_N.sum()),
        "within_distance": float(distance_NR[within_NR].double().sum()),
        "between_distance": float(distance_NR[between_NR].double().sum()),
        "within_cosine": float(cosine_NR[within_NR].double().sum()),
        "between_cosine": float(cosine_NR[between_NR].double().sum()),
        "misaligned_means": int(((other_mean_N < own_mean_N) & counted_N).sum()),
        "misaligned_neighbours": int(((near_other < near) & counted_N).sum()),
    }


def _to_means(
    z_NF: torch.Tensor, y_N: torch.Tensor, clean_RF: torch.Tensor, y_R: torch.Tensor, own_N: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Distance to the mean of the own class, without the own clean image, and to the nearest other mean, (N,) each."""
    member_RK = F.one_hot(y_R, int(torch.maximum(y_R.max(), y_N.max())) + 1).to(clean_RF.dtype)
    sums_KF, counts_K = member_RK.T @ clean_RF, member_RK.sum(dim=0)
    means_KF = sums_KF / counts_K.clamp(min=1)[:, None]
    others_N = (counts_K[y_N] - 1).clamp(min=1)
    own_mean_NF = (sums_KF[y_N] - clean_RF[own_N]) / others_N[:, None]
    distance_NK = torch.cdist(z_NF, means_KF, compute_mode="donot_use_mm_for_euclid_dist")
    distance_NK = distance_NK.masked_fill(counts_K == 0, torch.inf).scatter(1, y_N[:, None], torch.inf)
    return (z_NF - own_mean_NF).norm(dim=1), distance_NK.amin(dim=1)


def knn_accuracies(z_NF: torch.Tensor, y_N: torch.Tensor, train_TF: torch.Tensor, y_T: torch.Tensor) -> dict[str, float]:
    """Share of images whose class most of their nearest training images have, for each number of `NEIGHBOURS`.

    Nearest by cosine of unit-length features. Of classes with equally many votes, the nearer images' is taken.
    """
    classes = int(torch.maximum(y_T.max(), y_N.max())) + 1
    right = dict.fromkeys(NEIGHBOURS, 0)
    for rows in _chunks(len(z_NF)):
        similarity_NT = z_NF[rows] @ train_TF.T
        for count in NEIGHBOURS:
            nearest = similarity_NT.topk(min(count, len(train_TF)), dim=1)
            votes_NVK = F.one_hot(y_T[nearest.indices], classes).to(z_NF.dtype)
            # Cosines, brought to [0, 1] and divided so that all of them together are less than a vote.
            weight_NV = 1 + (nearest.values + 1) / (2 * count + 1)
            predicted_N = (votes_NVK * weight_NV[:, :, None]).sum(dim=1).argmax(dim=1)
            right[count] += int((predicted_N == y_N[rows]).sum())
    return {f"knn{count}_acc": right[count] / len(z_NF) for count in NEIGHBOURS}


def own_clean_cosine(z_NF: torch.Tensor, clean_NF: torch.Tensor) -> float:
    """Mean cosine of attacked features with those of the same image unchanged."""
    return float((z_NF * clean_NF).sum(dim=1).double().mean())


def _share(amount: float, of: float) -> float:
    return amount / of if of else float("nan")


def _chunks(count: int) -> list[slice]:
    return [slice(begin, begin + ROWS) for begin in range(0, count, ROWS)]
