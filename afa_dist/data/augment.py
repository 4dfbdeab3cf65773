"""Random crop and flip, drawn for each image separately, on the device the images are on; other changes come before.

Legend: B images, C channels, H height, W width.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
import torch.nn.functional as F

from afa_dist.config import DataConfig
from afa_dist.data.per_image import PerImage
from afa_dist.distributed.randomness import SlicedRandom

LARGE = 1 << 15
"""Bytes from which torch mirrors an image: it begins later than NumPy, which then reverses byte by byte."""


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Shift by up to `crop_padding` pixels (new pixels are 0) and mirror half of the images if `flip`.

    each: what is done before that, to each image where it is read; None for nothing.
    """

    crop_padding: int = 0
    flip: bool = False
    each: PerImage | None = None

    @staticmethod
    def of(config: DataConfig) -> Augmentation:
        """As `config` has it."""
        return Augmentation(config.crop_padding, config.flip, PerImage.of(config))

    def __call__(self, images_BCHW: torch.Tensor, random: SlicedRandom) -> torch.Tensor:
        """Shift and mirror `images_BCHW`; `random` must cover exactly these images."""
        if not self.crop_padding and not self.flip:
            return images_BCHW
        height, width = images_BCHW.shape[-2:]
        padded = F.pad(images_BCHW, [self.crop_padding] * 4) if self.crop_padding else images_BCHW
        offsets_B2 = random.integers(0, 2 * self.crop_padding + 1, 2) if self.crop_padding else None
        mirrored_B = random.uniform() < 0.5 if self.flip else None
        if images_BCHW.device.type == "cpu":
            return _one_by_one(padded, offsets_B2, mirrored_B, height, width)
        images = crop(padded, offsets_B2, height, width) if offsets_B2 is not None else images_BCHW
        return images if mirrored_B is None else torch.where(mirrored_B[:, None, None, None], images.flip(-1), images)


def _one_by_one(
    padded_BCHW: torch.Tensor,
    offsets_B2: torch.Tensor | None,
    mirrored_B: torch.Tensor | None,
    height: int,
    width: int,
) -> torch.Tensor:
    """The same on a CPU, where copying windows is ten times as fast as gathering pixels."""
    source = padded_BCHW.numpy()
    found = np.empty((*source.shape[:2], height, width), source.dtype)
    offsets = offsets_B2.tolist() if offsets_B2 is not None else [(0, 0)] * len(source)
    mirrored = mirrored_B.tolist() if mirrored_B is not None else [False] * len(source)
    for image, target, (top, left), mirror in zip(source, found, offsets, mirrored, strict=True):
        window = image[:, top : top + height, left : left + width]
        if mirror and window.size >= LARGE:
            torch.from_numpy(target).copy_(torch.from_numpy(window).flip(-1))
        else:
            target[:] = window[:, :, ::-1] if mirror else window
    return torch.from_numpy(found)


def crop(images_BCHW: torch.Tensor, offsets_B2: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Cut a window of (height, width) from each image, its top left corner at `offsets_B2` (row, column)."""
    device = images_BCHW.device
    rows_BH = offsets_B2[:, 0, None] + torch.arange(height, device=device)
    columns_BW = offsets_B2[:, 1, None] + torch.arange(width, device=device)
    batch_B = torch.arange(images_BCHW.shape[0], device=device)
    windows_BHWC = images_BCHW.permute(0, 2, 3, 1)[batch_B[:, None, None], rows_BH[:, :, None], columns_BW[:, None, :]]
    return windows_BHWC.permute(0, 3, 1, 2).contiguous()
