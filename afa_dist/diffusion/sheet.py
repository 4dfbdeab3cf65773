"""A contact sheet: images side by side, a row a class."""

from __future__ import annotations

import torch
from PIL import Image

COLUMNS = 10
MOST_ROWS = 20
GAP = 2
SIDE = 48
"""Small images are enlarged to about so many pixels, in whole steps so that their own pixels stay square."""


def contact_sheet(images_NCHW: torch.Tensor) -> Image.Image:
    """Images, uint8, `COLUMNS` in a row; at most `MOST_ROWS` rows."""
    factor = max(1, SIDE // images_NCHW.shape[-2])
    tiles = images_NCHW[: MOST_ROWS * COLUMNS].repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    count, channels, height, width = tiles.shape
    rows = -(-count // COLUMNS)
    sheet = torch.full((channels, rows * (height + GAP) + GAP, COLUMNS * (width + GAP) + GAP), 255, dtype=torch.uint8)
    for number, tile in enumerate(tiles):
        top, left = (
            place * size + GAP for place, size in zip(divmod(number, COLUMNS), (height + GAP, width + GAP), strict=True)
        )
        sheet[:, top : top + height, left : left + width] = tile
    array = sheet.permute(1, 2, 0).numpy()
    return Image.fromarray(array[..., 0] if channels == 1 else array)
