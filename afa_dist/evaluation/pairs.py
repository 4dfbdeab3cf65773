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
    assert first_N.shape == second_N.shape
    images = len(first_N)
    only_first, only_second = int((first_N & ~second_N).sum()), int((second_N & ~first_N).sum())
    b, c, n = only_first + 0.5, only_second + 0.5, images + 2.0
    half = Z_95 * math.sqrt(b + c - (b - c) ** 2 / n) / n
    middle = (b - c) / n
    interval = (max(-1.0, middle - half), min(1.0, middle + half))
    difference = (only_first - only_second) / max(images, 1)
    return PairedComparison(images, only_first, only_second, difference, interval, _mcnemar(only_first, only_second))


def _mcnemar(b: int, c: int) -> float:
    """Two-sided: twice the chance of so few heads or fewer in b + c throws of a fair coin."""
    n, few = b + c, min(b, c)
    tail = sum(math.comb(n, k) for k in range(few + 1)) / 2**n if n < 1000 else _tail(n, few)
    return min(1.0, 2 * tail)


def _tail(n: int, few: int) -> float:
    """The same by the normal distribution with the correction for continuity: beyond a thousand throws they agree."""
    z = (few + 0.5 - n / 2) / (math.sqrt(n) / 2)
    return 0.5 * math.erfc(-z / math.sqrt(2))
