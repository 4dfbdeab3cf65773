"""Two models on the same images: what one stands and the other does not."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from afa_dist.evaluation.summary import Z_95


@dataclasses.dataclass(frozen=True)
class PairedComparison:
    """only_first, only_second: images that one of both stands. difference: of the accuracies, first minus second.
    p_value: of McNemar's exact test (1947) that both are equally good."""

    images: int
    only_first: int
    only_second: int
    difference: float
    interval_95: tuple[float, float]
    p_value: float


def compare_pairs(first_N: np.ndarray, second_N: np.ndarray) -> PairedComparison:
    """Compare which images two models stand (bool, (N,) each), in the same order.

    The interval is Wald's with half an image added to each cell of the table (Agresti & Min 2005), which is sensible where
    the models hardly differ.
    """
    from scipy.stats import binomtest  # slow to import, and only this needs it

    assert first_N.shape == second_N.shape
    images = len(first_N)
    only_first, only_second = int((first_N & ~second_N).sum()), int((second_N & ~first_N).sum())
    b, c, n = only_first + 0.5, only_second + 0.5, images + 2.0
    half = Z_95 * math.sqrt(b + c - (b - c) ** 2 / n) / n
    middle = (b - c) / n
    interval = (max(-1.0, middle - half), min(1.0, middle + half))
    difference = (only_first - only_second) / max(images, 1)
    differ = only_first + only_second
    p_value = float(binomtest(only_first, differ).pvalue) if differ else 1.0
    return PairedComparison(images, only_first, only_second, difference, interval, p_value)
