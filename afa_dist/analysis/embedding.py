"""Features in the plane, to be looked at.

Legend: N images, F features.
"""

from __future__ import annotations

import torch

PERPLEXITY = 30.0
"""Of t-SNE: scikit-learn's default; a third of the points where there are fewer than 90."""


def planes(clean_NF: torch.Tensor, adv_NF: torch.Tensor) -> dict[str, torch.Tensor]:
    """Two coordinates (N, 2) of clean and attacked features, fitted to both together: so they can be drawn into one plane.

    pca: the two directions in which they vary most. tsne: t-SNE (van der Maaten & Hinton, 2008) from these, a drawing of
    who is near whom, whose distances between groups mean nothing. Both by scikit-learn, on one thread and with fixed
    random numbers, so that the same features give the same drawing.
    """
    from sklearn.decomposition import PCA  # takes a second to import, and only this needs it
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    both = torch.cat([clean_NF, adv_NF]).double().cpu().numpy()
    perplexity = min(PERPLEXITY, (len(both) - 1) / 3)
    with threadpool_limits(1):
        found = {
            "pca": PCA(2, svd_solver="full", random_state=0).fit_transform(both),
            "tsne": TSNE(2, init="pca", perplexity=perplexity, random_state=0).fit_transform(both),
        }
    tensors: dict[str, torch.Tensor] = {}
    for name, points in found.items():
        clean_N2, adv_N2 = torch.from_numpy(points).float().split(len(clean_NF))
        tensors |= {f"{name}_N2": clean_N2.contiguous(), f"{name}_adv_N2": adv_N2.contiguous()}
    return tensors
