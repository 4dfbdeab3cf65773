"""What all sources have in common.

Legend: N rows of a split, M rows read at once, C channels, H height, W width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from afa_dist.data.decode import Encoded

Piece = np.ndarray | Sequence[Encoded]
"""Images: pixels, uint8 (M, C, H, W), or encoded."""


class Source(ABC):
    """A set of labelled images in some format.

    classes: their names, in order. labels: of each split (`train`, `test`), int32 (N,), in the order of the rows.
    identity: what tells its content from others; part of the set's record. in_parts: whether `mark` tells rows from others
    even if they are of a source that has changed elsewhere. pixels: C, H, W where it holds pixels; None
    where images are encoded. in_order: whether rows can be read in ascending order only, by one process.
    """

    classes: tuple[str, ...]
    labels: Mapping[str, np.ndarray]
    identity: Mapping[str, Any]
    pixels: tuple[int, int, int] | None = None
    in_order = False
    in_parts = False

    def mark(self, split: str, start: int, stop: int) -> str:
        """What tells rows start to stop - 1 from others; by default, as part of this source."""
        return ""

    @abstractmethod
    def read(self, split: str, start: int, stop: int) -> Piece:
        """Images of rows start to stop - 1.

        Raises:
            UserError: they cannot be read.
        """
