"""Images in Arrow files as if they were one array: any rows, in any order, at the cost of those rows.

Legend: N images, M images asked for, C channels, H height, W width.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from afa_dist.data.chosen import AllBut, AllRows, Rows, part_of
from afa_dist.data.decode import Encoded, decode_images
from afa_dist.data.shard import DamagedShardError, Shard, checksums
from afa_dist.errors import UserError

PORTION = 4096
"""Images that are read together when all of them are."""


@dataclasses.dataclass(frozen=True)
class ShardFile:
    """What is recorded of a file: name, rows, size in bytes and SHA-256."""

    name: str
    rows: int
    bytes: int
    sha256: str


class OpenShards:
    """The files of a split, each opened when a row of it is asked for, and checked row by row.

    path_of: where a file lies on this machine; may fetch it. labels_N: of all rows. shape: C, H, W of raw images; None
    where they are encoded.
    """

    def __init__(
        self,
        files: Sequence[ShardFile],
        path_of: Callable[[ShardFile], Path],
        labels_N: np.ndarray,
        shape: tuple[int, int, int] | None,
    ) -> None:
        self.files, self.path_of, self.labels_N, self.shape = list(files), path_of, labels_N, shape
        self._starts = np.concatenate([[0], np.cumsum([file.rows for file in files])])
        self._open: dict[int, Shard] = {}

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_open": {}}

    def raw(self, rows_M: np.ndarray) -> np.ndarray:
        """A copy of the pixels of `rows_M`, uint8 (M, C, H, W), where images are raw.

        Raises:
            UserError: a file is missing, or a row is not what was written.
        """
        assert self.shape is not None
        images_MCHW = np.empty((len(rows_M), *self.shape), np.uint8)
        stored_M = np.empty(len(rows_M), np.uint32)
        for place, (number, row) in enumerate(self._places(rows_M)):
            shard = self._shard(number)
            images_MCHW[place] = shard.images[row]
            stored_M[place] = shard.checksums_N[row]
        self._check(rows_M, checksums(images_MCHW, self.labels_N[rows_M]) != stored_M)
        return images_MCHW

    def encoded(self, rows_M: np.ndarray) -> list[Encoded]:
        """The images of `rows_M`, where they are encoded.

        Raises:
            UserError: a file is missing, or a row is not what was written.
        """
        images: list[Encoded] = []
        stored_M = np.empty(len(rows_M), np.uint32)
        for place, (number, row) in enumerate(self._places(rows_M)):
            shard = self._shard(number)
            images.append(Encoded(shard.images[row].as_py(), str(shard.path), f"row {row}"))
            stored_M[place] = shard.checksums_N[row]
        self._check(rows_M, checksums((image.data for image in images), self.labels_N[rows_M]) != stored_M)
        return images

    def _places(self, rows_M: np.ndarray) -> list[tuple[int, int]]:
        """The file of each row, and the row in it."""
        numbers_M = np.searchsorted(self._starts, rows_M, side="right") - 1
        return list(zip(numbers_M.tolist(), (rows_M - self._starts[numbers_M]).tolist(), strict=True))

    def _shard(self, number: int) -> Shard:
        shard = self._open.get(number)
        if shard is None:
            file = self.files[number]
            try:
                shard = Shard(self.path_of(file))
            except DamagedShardError as error:
                raise UserError.one("data.path", f"{error}; copy or prepare it again") from error
            if len(shard) != file.rows:
                raise UserError.one("data.path", f"{shard.path} has {len(shard)} rows, not {file.rows}; prepare it again")
            if shard.shape != self.shape:
                sizes = [" x ".join(map(str, shape)) if shape else "many sizes" for shape in (shard.shape, self.shape)]
                what = f"{shard.path} holds images of {sizes[0]}, not {sizes[1]}; copy or prepare it again"
                raise UserError.one("data.path", what)
            if not np.array_equal(shard.labels_N, self.labels_N[self._starts[number] : self._starts[number + 1]]):
                what = f"{shard.path} has labels that are not what was written; copy or prepare it again"
                raise UserError.one("data.path", what)
            self._open[number] = shard
        return shard

    def _check(self, rows_M: np.ndarray, wrong_M: np.ndarray) -> None:
        if not wrong_M.any():
            return
        number, row = self._places(rows_M[wrong_M][:1])[0]
        where = self._shard(number).path
        what = f"row {row} of {where} is not what was written: the disk or a copy damaged it; copy or prepare it again"
        raise UserError.one("data.path", what)


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
