"""Which rows of a set a part of it holds: all but a few, or a few, without a list of all.

Legend: N rows of the set, P rows of the part, M positions asked for.
"""

from __future__ import annotations

import hashlib
from typing import Protocol

import numpy as np


class Rows(Protocol):
    """Rows of a set, by their position in a part of it."""

    def __len__(self) -> int:
        """How many there are."""

    def at(self, positions_M: np.ndarray) -> np.ndarray:
        """The rows at some positions, int64 (M,)."""

    def identity(self) -> str:
        """Equal for equal rows."""


class AllRows:
    """All rows of a set."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def at(self, positions_M: np.ndarray) -> np.ndarray:
        return positions_M.astype(np.int64)

    def identity(self) -> str:
        return f"all {self._count}"


class AllBut:
    """All rows but some, in order."""

    def __init__(self, count: int, left_out: np.ndarray) -> None:
        self._count = count
        self._left_out = np.unique(left_out.astype(np.int64))
        # Row r is at position r minus the number left out before it, so the k-th of them comes before position l_k - k.
        self._before = self._left_out - np.arange(len(self._left_out))

    def __len__(self) -> int:
        return self._count - len(self._left_out)

    def at(self, positions_M: np.ndarray) -> np.ndarray:
        return positions_M + np.searchsorted(self._before, positions_M, side="right")

    def identity(self) -> str:
        return f"all {self._count} but {hashlib.sha256(self._left_out.tobytes()).hexdigest()}"


class SomeRows:
    """Listed rows."""

    def __init__(self, rows_P: np.ndarray) -> None:
        self._rows_P = rows_P.astype(np.int64)

    def __len__(self) -> int:
        return len(self._rows_P)

    def at(self, positions_M: np.ndarray) -> np.ndarray:
        return self._rows_P[positions_M]

    def identity(self) -> str:
        return hashlib.sha256(self._rows_P.tobytes()).hexdigest()


def part_of(rows: Rows, positions_P: np.ndarray) -> SomeRows:
    """The part of a part at `positions_P`."""
    return SomeRows(rows.at(np.asarray(positions_P, dtype=np.int64)))
