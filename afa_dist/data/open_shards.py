"""The files of a split, opened and checked as rows of them are asked for.

Legend: N images, M images asked for, C channels, H height, W width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from afa_dist.data.decode import Encoded
from afa_dist.data.shard import DamagedShardError, Shard, checksums
from afa_dist.errors import UserError

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class ShardFile:
    """What is recorded of a file: name, rows, size in bytes and SHA-256."""

    name: str
    rows: int
    bytes: int
    sha256: str


class Whereabouts(Protocol):
    """Finds files on this machine."""

    def __call__(self, file: ShardFile) -> Path:
        """Where a file is; may fetch it."""

    def forget(self, file: ShardFile) -> bool:
        """Told that a file is damaged; whether the next call may find another copy."""


class _DamageError(Exception):
    """A file, by its number, or a row of it is not what was written."""

    def __init__(self, number: int, what: str) -> None:
        super().__init__(what)
        self.number = number


class OpenShards:
    """The files of a split, each opened when a row of it is asked for, and checked row by row.

    labels_N: of all rows. shape: C, H, W of raw images; None where they are encoded.
    """

    def __init__(
        self,
        files: Sequence[ShardFile],
        path_of: Whereabouts,
        labels_N: np.ndarray,
        shape: tuple[int, int, int] | None,
    ) -> None:
        self.files, self.path_of, self.labels_N, self.shape = list(files), path_of, labels_N, shape
        self._starts = np.concatenate([[0], np.cumsum([file.rows for file in files])])
        self._open: dict[int, Shard] = {}
        self._had_again: set[int] = set()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_open": {}}

    def raw(self, rows_M: np.ndarray) -> np.ndarray:
        """A copy of the pixels of `rows_M`, uint8 (M, C, H, W), where images are raw.

        Raises:
            UserError: a file is missing, or a row is not what was written.
        """
        return self._whole(lambda: self._raw(rows_M))

    def _raw(self, rows_M: np.ndarray) -> np.ndarray:
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
        return self._whole(lambda: self._encoded(rows_M))

    def _encoded(self, rows_M: np.ndarray) -> list[Encoded]:
        images: list[Encoded] = []
        stored_M = np.empty(len(rows_M), np.uint32)
        for place, (number, row) in enumerate(self._places(rows_M)):
            shard = self._shard(number)
            images.append(Encoded(shard.images[row].as_py(), str(shard.path), f"row {row}"))
            stored_M[place] = shard.checksums_N[row]
        self._check(rows_M, checksums((image.data for image in images), self.labels_N[rows_M]) != stored_M)
        return images

    def _whole(self, read: Callable[[], T]) -> T:
        """What `read` gives; a file that turns out to be damaged is had again, once, if it can be."""
        while True:
            try:
                return read()
            except _DamageError as damage:
                number = damage.number
                if number in self._had_again or not self.path_of.forget(self.files[number]):
                    raise UserError.one("data.path", f"{damage}; copy or prepare it again") from damage
                self._had_again.add(number)
                self._open.pop(number, None)

    def _places(self, rows_M: np.ndarray) -> list[tuple[int, int]]:
        """The file of each row, and the row in it."""
        numbers_M = np.searchsorted(self._starts, rows_M, side="right") - 1
        return list(zip(numbers_M.tolist(), (rows_M - self._starts[numbers_M]).tolist(), strict=True))

    def _shard(self, number: int) -> Shard:
        shard = self._open.get(number)
        if shard is None:
            shard = self._opened(number, self.files[number])
            self._open[number] = shard
        return shard

    def _opened(self, number: int, file: ShardFile) -> Shard:
        path = self.path_of(file)
        try:
            shard = Shard(path)
        except DamagedShardError as error:
            raise _DamageError(number, str(error)) from error
        if len(shard) != file.rows:
            raise _DamageError(number, f"{path} has {len(shard)} rows, not {file.rows}")
        if shard.shape != self.shape:
            sizes = [" x ".join(map(str, shape)) if shape else "many sizes" for shape in (shard.shape, self.shape)]
            raise _DamageError(number, f"{path} holds images of {sizes[0]}, not {sizes[1]}")
        if not np.array_equal(shard.labels_N, self.labels_N[self._starts[number] : self._starts[number + 1]]):
            raise _DamageError(number, f"{path} has labels that are not what was written")
        return shard

    def _check(self, rows_M: np.ndarray, wrong_M: np.ndarray) -> None:
        if wrong_M.any():
            number, row = self._places(rows_M[wrong_M][:1])[0]
            where = self._shard(number).path
            raise _DamageError(number, f"row {row} of {where} is not what was written: the disk or a copy damaged it")
