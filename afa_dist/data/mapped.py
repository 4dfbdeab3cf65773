"""Images in Arrow files as if they were one array: any rows, in any order, at the cost of those rows.

Legend: N images, M images asked for, C channels, H height, W width.
"""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import torch

from afa_dist.data.chosen import AllBut, AllRows, Rows, part_of
from afa_dist.data.decode import Encoded, decode_images
from afa_dist.data.open_shards import OpenShards

PORTION = 4096
"""Images that are read together when all of them are."""


@dataclasses.dataclass(frozen=True)
class MappedImages:
    """Stands where a tensor of all pixels would, uint8 (N, C, H, W): `images[index]` reads those rows.

    size: C, H, W as they come out. image_size: side that encoded images are brought to; 0 as stored. statistics: mean and
    deviation of each channel, over all training images of the set. Whatever is asked for, the result is a tensor of its
    own, on the CPU.
    """

    shards: OpenShards
    rows: Rows
    size: tuple[int, int, int]
    image_size: int
    statistics: tuple[tuple[float, ...], tuple[float, ...]]

    dtype = torch.uint8
    device = torch.device("cpu")

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self.rows), *self.size)

    @property
    def nbytes(self) -> int:
        """Of all images as pixels."""
        return len(self.rows) * int(np.prod(self.size))

    def __getitem__(self, index: torch.Tensor | slice) -> torch.Tensor:
        """Images at positions (M,), int64 or slice, as uint8 (M, C, H, W).

        Raises:
            UserError: a file is missing, or an image is not what was written.
        """
        positions_M = np.arange(*index.indices(len(self))) if isinstance(index, slice) else index.cpu().numpy()
        rows_M = self.rows.at(positions_M)
        if not len(rows_M):
            return torch.empty(0, *self.size, dtype=torch.uint8)
        if self.shards.shape is not None:
            return torch.from_numpy(self.shards.raw(rows_M))
        images = self.shards.encoded(rows_M)
        colour = self.size[0] == 3
        return decode_images(len(images), images.__getitem__, self.image_size, colour=colour, shape=self.size)

    @property
    def is_encoded(self) -> bool:
        """Whether files hold JPEG and the like, rather than pixels."""
        return self.shards.shape is None

    def encoded(self, index_M: torch.Tensor) -> list[Encoded]:
        """Images at positions (M,), where they are encoded, as they are stored.

        Raises:
            UserError: a file is missing, or an image is not what was written.
        """
        return self.shards.encoded(self.rows.at(index_M.cpu().numpy())) if len(index_M) else []

    def in_memory(self) -> torch.Tensor:
        """All pixels, read a portion at a time."""
        images_NCHW = torch.empty(self.shape, dtype=torch.uint8)
        for start in range(0, len(self), PORTION):
            images_NCHW[start : start + PORTION] = self[start : start + PORTION]
        return images_NCHW

    def subset(self, positions_P: np.ndarray) -> MappedImages:
        """The images at some positions."""
        return dataclasses.replace(self, rows=part_of(self.rows, positions_P))

    def without(self, positions_P: np.ndarray) -> MappedImages:
        """All images but those at some positions."""
        if isinstance(self.rows, AllRows):
            return dataclasses.replace(self, rows=AllBut(len(self.rows), positions_P))
        return self.subset(np.setdiff1d(np.arange(len(self.rows)), positions_P))

    def fingerprint(self) -> str:
        """Equal for the same rows of equal files, brought to the same size; reads none of them."""
        digest = hashlib.sha256(repr((self.size, self.image_size, self.rows.identity())).encode())
        for file in self.shards.files:
            digest.update(f"{file.rows} {file.sha256}\n".encode())
        return digest.hexdigest()
