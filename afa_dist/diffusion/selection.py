"""Which of the images drawn make the set: the best of each class by their score."""

from __future__ import annotations

import math

import numpy as np

from afa_dist.data.image_set import even_shares


def drawn_for(count: int, classes: int, keep: float) -> int:
    """How many images are drawn for a set of `count`: with `keep` below 1 equally many of each class, the best of which
    are enough for the set."""
    if keep == 1:
        return count
    # ceil(x / keep) without the rounding of the division: 20 / 0.1 is 200, not 201.
    return classes * math.ceil(round(-(-count // classes) / keep, 9))


def chosen(labels_N: np.ndarray, scores_N: np.ndarray, keep: float, count: int, classes: int) -> np.ndarray:
    """Rows that are kept, ascending: of each label the share `keep` with the highest score, of equals the first; and of
    those at most `count`, as evenly over the labels as there are enough."""
    kept = []
    for label in range(classes):
        rows = np.flatnonzero(labels_N == label)
        best = rows[np.argsort(-scores_N[rows], kind="stable")]
        kept.append(best[: math.floor(round(keep * len(rows), 9))])
    quota = even_shares([len(rows) for rows in kept], count)
    return np.sort(np.concatenate([rows[:most] for rows, most in zip(kept, quota, strict=True)]))
