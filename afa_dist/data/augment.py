"""Random crop and flip, drawn for each image separately, on the device the images are on.

Legend: B images, C channels, H height, W width.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F

from afa_dist.distributed.randomness import SlicedRandom


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Shift by up to `crop_padding` pixels (new pixels are 0) and mirror half of the images if `flip`."""

    crop_padding: int = 0
    flip: bool = False

    def __call__(self, images_BCHW: torch.Tensor, random: SlicedRandom) -> torch.Tensor:
        """Augment `images_BCHW`; `random` must cover exactly these images."""
        images = images_BCHW
        if self.crop_padding:
            offsets_B2 = random.integers(0, 2 * self.crop_padding + 1, 2)
            images = crop(F.pad(images, [self.crop_padding] * 4), offsets_B2, images.shape[-2], images.shape[-1])
        if self.flip:
            mirrored_B = random.uniform() < 0.5
            images = torch.where(mirrored_B[:, None, None, None], images.flip(-1), images)
        return images


def crop(images_BCHW: torch.Tensor, offsets_B2: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Cut a window of (height, width) from each image, its top left corner at `offsets_B2` (row, column)."""
    device = images_BCHW.device
    rows_BH = offsets_B2[:, 0, None] + torch.arange(height, device=device)
    columns_BW = offsets_B2[:, 1, None] + torch.arange(width, device=device)
    batch_B = torch.arange(images_BCHW.shape[0], device=device)
    windows_BHWC = images_BCHW.permute(0, 2, 3, 1)[batch_B[:, None, None], rows_BH[:, :, None], columns_BW[:, None, :]]
    return windows_BHWC.permute(0, 3, 1, 2).contiguous()
