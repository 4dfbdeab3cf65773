"""Images of one size in one array.

Legend: N images, C channels, H height, W width.
"""

from __future__ import annotations

import numpy as np

from afa_dist.errors import UserError


class Stack:
    """All pixels in one array, uint8 (N, C, H, W), allocated when the first image shows its size.

    shape: C, H, W where they are known; else all must be as high and wide as the first, and have 3 channels if one has.
    """

    def __init__(self, count: int, shape: tuple[int, int, int] | None) -> None:
        self.count, self.shape = count, shape
        self.pixels_NCHW: np.ndarray | None = _allocate((count, *shape)) if shape else None

    def put(self, position: int, pixels_CHW: np.ndarray) -> str:
        """Lay down an image; returns what is wrong with its size, or "". In any order, and by several threads, where the
        shape was known from the beginning."""
        if not self._fits(pixels_CHW):
            return self._misfit(pixels_CHW)
        if self.pixels_NCHW is None:
            self.pixels_NCHW = _allocate((self.count, *pixels_CHW.shape))
        elif len(pixels_CHW) > self.pixels_NCHW.shape[1]:
            grey = self.pixels_NCHW
            self.pixels_NCHW = _allocate((self.count, *pixels_CHW.shape))
            self.pixels_NCHW[:position] = grey[:position]
        self.pixels_NCHW[position] = pixels_CHW  # a grey image spreads over three channels
        return ""

    def _fits(self, pixels_CHW: np.ndarray) -> bool:
        if self.shape is not None:
            return pixels_CHW.shape == self.shape or pixels_CHW.shape == (1, *self.shape[1:])
        return self.pixels_NCHW is None or pixels_CHW.shape[1:] == self.pixels_NCHW.shape[2:]

    def _misfit(self, pixels_CHW: np.ndarray) -> str:
        assert self.pixels_NCHW is not None
        if self.shape is not None:
            shown = [" x ".join(map(str, shape)) for shape in (pixels_CHW.shape, self.shape)]
            return f"has channels x height x width {shown[0]}, images before it {shown[1]}; all must have one size"
        (height, width), (first_height, first_width) = pixels_CHW.shape[1:], self.pixels_NCHW.shape[2:]
        sizes = f"{width}x{height} pixels, the first image {first_width}x{first_height}"
        return f"is {sizes}; set data.image_size, and all are brought to one size"


def _allocate(shape: tuple[int, ...]) -> np.ndarray:
    try:
        return np.empty(shape, dtype=np.uint8)
    except MemoryError as error:
        count, _, height, width = shape
        size = f"{count} images of {width}x{height} pixels need {np.prod(shape, dtype=float) / 2**30:.0f} GiB of memory"
        raise UserError.one("data.image_size", f"{size}; set a smaller size, or data.train_limit and test_limit") from error
