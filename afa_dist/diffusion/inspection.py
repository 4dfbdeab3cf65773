"""What a set of generated images is worth: whether a classifier sees the classes that were meant, and how far the images
are from real ones in its features.

Legend: N images, F features, K classes.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch

from afa_dist.data.image_set import ImageSet
from afa_dist.diffusion.frechet import against_halves
from afa_dist.evaluation.summary import accuracy
from afa_dist.models.networks import Classifier
from afa_dist.models.norm import at_least_fp32

BATCH = 500


@torch.no_grad()
def seen_by(net: Classifier, images: ImageSet, tick: Callable[[int], None]) -> tuple[torch.Tensor, torch.Tensor]:
    """Predicted classes (N,) and penultimate features (N, F) of `images`; tick: hears how many more are done."""
    device = next(net.parameters()).device
    predictions, features = [], []
    for start in range(0, len(images), BATCH):
        x = images.pixels(slice(start, start + BATCH)).to(device)
        features_BF = net.encoder(x)
        predictions.append(net.linear(features_BF).argmax(dim=1).cpu())
        features.append(at_least_fp32(features_BF).cpu())
        tick(len(x))
    return torch.cat(predictions), torch.cat(features)


def inspect(
    net: Classifier, drawn: ImageSet, real: ImageSet, splits: int, seed: int, tick: Callable[[int], None]
) -> dict[str, Any]:
    """Agreement with the labels, and Fréchet distances of features to halves of the real images beside those between the
    halves (mean and deviation over random splits)."""
    predicted_N, drawn_NF = seen_by(net, drawn, tick)
    real_predicted_N, real_NF = seen_by(net, real, tick)
    right_N = predicted_N == drawn.labels_N
    to_halves, between = against_halves(drawn_NF, real_NF, splits, seed)
    return {
        "images": len(drawn),
        "agreement": accuracy(int(right_N.sum()), len(drawn)),
        "per_class": {
            name: accuracy(int(right_N[drawn.labels_N == label].sum()), int((drawn.labels_N == label).sum()))
            for label, name in enumerate(drawn.classes)
            if bool((drawn.labels_N == label).any())
        },
        "agreement_real": accuracy(int((real_predicted_N == real.labels_N).sum()), len(real)),
        "frechet": {
            "drawn_to_real": _spread(to_halves),
            "real_to_real": _spread(between),
            "images_each": min(len(real) // 2, len(drawn)),
            "splits": splits,
        },
    }


def _spread(values: list[float]) -> dict[str, float]:
    return {"mean": statistics.mean(values), "std": statistics.stdev(values)}
