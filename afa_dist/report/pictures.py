"""Images as data URIs, so that a page needs no file beside it.

Legend: N images, C channels (1 or 3), H height, W width.
"""

from __future__ import annotations

import base64
import io
import math

import numpy as np
import torch
from PIL import Image

SPRITE_COLUMNS = 32


def png(x_CHW: torch.Tensor) -> str:
    """A data URI of an image with pixels in [0, 1]."""
    return _uri(_pixels(x_CHW))


def sprite(x_NCHW: torch.Tensor) -> str:
    """A data URI of all images on one sheet, `SPRITE_COLUMNS` in a row."""
    count, channels, height, width = x_NCHW.shape
    rows = max(1, math.ceil(count / SPRITE_COLUMNS))
    sheet = torch.zeros(channels, rows * height, SPRITE_COLUMNS * width)
    for index, x in enumerate(x_NCHW):
        top, left = index // SPRITE_COLUMNS * height, index % SPRITE_COLUMNS * width
        sheet[:, top : top + height, left : left + width] = x
    return _uri(_pixels(sheet))


def magnified(delta_CHW: torch.Tensor) -> tuple[str, float]:
    """A perturbation around mid-grey, and the factor that it is shown larger by (its greatest change fills the range)."""
    factor = 0.5 / max(float(delta_CHW.abs().max()), 1e-6)
    return png(0.5 + factor * delta_CHW), factor


def heat(map_HW: torch.Tensor) -> str:
    """A map of values >= 0, black where 0 and white at its 99th percentile, so that one pixel does not hide the rest."""
    top = max(float(torch.quantile(map_HW.float().flatten(), 0.99)), 1e-12)
    return png((map_HW.float() / top).clamp(0, 1)[None])


def _pixels(x_CHW: torch.Tensor) -> np.ndarray:
    scaled = (x_CHW.detach().float().clamp(0, 1) * 255).round().byte().cpu().numpy()
    return scaled[0] if len(scaled) == 1 else scaled[:3].transpose(1, 2, 0)


def _uri(pixels: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
