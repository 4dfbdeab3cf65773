"""The Fréchet distance between two sets of features.

Legend: N and M images, F features.
"""

from __future__ import annotations

import numpy as np
import torch


def frechet_distance(one_NF: torch.Tensor, other_MF: torch.Tensor) -> float:
    """|mean - mean'|^2 + trace(C + C' - 2 (C C')^(1/2)) of two sets of features as Gaussians (Dowson and Landau 1982;
    with an Inception network's features it is called FID, 1706.08500). In fp64; covariances are the unbiased ones.

    Small sets are farther apart than large ones of the same distribution: compare distances of sets of one size only.
    """
    means, covariances = [], []
    for features in (one_NF.double(), other_MF.double()):
        centred = features - features.mean(dim=0)
        means.append(features.mean(dim=0))
        covariances.append(centred.T @ centred / (len(features) - 1))
    # The trace of the root of C C' is that of the root of the symmetric R C' R, where R is the root of C.
    values, vectors = torch.linalg.eigh(covariances[0])
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    shared = torch.linalg.eigvalsh(root @ covariances[1] @ root).clamp(min=0).sqrt().sum()
    traces = covariances[0].trace() + covariances[1].trace()
    return float((means[0] - means[1]).square().sum() + traces - 2 * shared)


def against_halves(
    drawn_NF: torch.Tensor, real_MF: torch.Tensor, splits: int, seed: int
) -> tuple[list[float], list[float]]:
    """Distances of drawn images to halves of the real ones, and of those to the other halves, all sets of one size; one of
    each for every random split."""
    size = min(len(real_MF) // 2, len(drawn_NF))
    random = np.random.Generator(np.random.Philox(seed))
    drawn, halves = [], []
    for _ in range(splits):
        order = random.permutation(len(real_MF))
        first, second = (real_MF[torch.from_numpy(part)] for part in (order[:size], order[size : 2 * size]))
        some = torch.from_numpy(random.permutation(len(drawn_NF))[:size])
        drawn.append(frechet_distance(drawn_NF[some], first))
        halves.append(frechet_distance(second, first))
    return drawn, halves
