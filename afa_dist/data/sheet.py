"""A contact sheet: images side by side, a row a class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image

COLUMNS = 10
MOST_ROWS = 20
GAP = 2
SIDE = 48
"""Small images are enlarged to about so many pixels, in whole steps so that their own pixels stay square."""


def contact_sheet(rows: Sequence[Sequence[torch.Tensor]]) -> Image.Image:
    """Images (C, H, W), uint8, row by row; at most `MOST_ROWS` rows of `COLUMNS`."""
    channels, height, width = rows[0][0].shape
    factor = max(1, SIDE // height)
    height, width = height * factor, width * factor
    shown = rows[:MOST_ROWS]
    sheet = torch.full((channels, len(shown) * (height + GAP) + GAP, COLUMNS * (width + GAP) + GAP), 255, dtype=torch.uint8)
    for number, row in enumerate(shown):
        for column, tile in enumerate(row[:COLUMNS]):
            top, left = number * (height + GAP) + GAP, column * (width + GAP) + GAP
            enlarged = tile.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
            sheet[:, top : top + height, left : left + width] = enlarged
    array = sheet.permute(1, 2, 0).numpy()
    return Image.fromarray(array[..., 0] if channels == 1 else array)
