"""Which of some points nobody beats, how much room they leave, and which one to take.

Points are (clean accuracy, robust accuracy), 0 to 1, both the higher the better.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Point = tuple[float, float]


def dominates(one: Point, other: Point, margin: float = 0.0) -> bool:
    """Whether `one` is at least as good as `other` in both and better in one; with a margin, better by it in both."""
    if margin > 0:
        return all(a >= b + margin for a, b in zip(one, other, strict=True))
    return one != other and all(a >= b for a, b in zip(one, other, strict=True))


def front_of(points: Sequence[Point]) -> list[int]:
    """The places in `points` of those that no other one dominates, by ascending clean accuracy; equals are all kept."""
    order = sorted(range(len(points)), key=lambda i: (-points[i][0], -points[i][1], i))
    kept: list[int] = []
    best = -math.inf
    for place in order:
        robust = points[place][1]
        if robust > best or (kept and points[place] == points[kept[-1]]):
            kept.append(place)
            best = robust
    return sorted(kept, key=lambda i: (points[i][0], -points[i][1], i))


def hypervolume(points: Sequence[Point], reference: Point = (0.0, 0.0)) -> float:
    """Area that `points` dominate above `reference` (Zitzler & Thiele 1998): 1 would be perfect in both accuracies."""
    area, robust_before = 0.0, reference[1]
    for clean, robust in sorted((points[i] for i in front_of(points)), reverse=True):
        width, height = clean - reference[0], robust - robust_before
        if width > 0 and height > 0:
            area += width * height
            robust_before = robust
    return area


def knee_of(points: Sequence[Point]) -> int | None:
    """The place in `points` of the front's knee: the point farthest beyond the line between the front's ends, both axes
    scaled to the front's extent (Das 1999); where there is none beyond it, the point with the greatest product.
    """
    front = front_of(points)
    if not front:
        return None
    first, last = points[front[0]], points[front[-1]]
    width, height = last[0] - first[0], first[1] - last[1]

    def beyond(i: int) -> float:
        clean, robust = points[i]
        return (clean - first[0]) / width + (robust - last[1]) / height - 1

    if width > 0 and height > 0 and (bulging := [i for i in front if beyond(i) > 1e-9]):
        return max(bulging, key=lambda i: (beyond(i), -i))
    return max(front, key=lambda i: (points[i][0] * points[i][1], -i))
