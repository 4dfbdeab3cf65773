"""Arrow files of images: mapped into memory, read row by row, and every row that is read is checked.

Pixels of one size are stored as they are (Arrow's fixed-shape tensor, C x H x W); other images keep the bytes of their JPEG
or PNG. A checksum of each row, over image and label, makes it possible to open a set of any size at once and still never to
train on a byte that has changed.

Legend: N images of a file, M images read at once, C channels, H height, W width.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from afa_dist.files import write_aside

IMAGE, LABEL, CHECKSUM = "image", "label", "crc32"


class DamagedShardError(ValueError):
    """A file that is not what was written."""


def raw_schema(shape: tuple[int, int, int]) -> pa.Schema:
    """Rows whose images are C x H x W bytes."""
    return pa.schema([(IMAGE, pa.fixed_shape_tensor(pa.uint8(), shape)), (LABEL, pa.int32()), (CHECKSUM, pa.uint32())])


ENCODED_SCHEMA = pa.schema([(IMAGE, pa.large_binary()), (LABEL, pa.int32()), (CHECKSUM, pa.uint32())])
"""Rows whose images are JPEG, PNG and the like."""


def checksums(images: Iterable[Any], labels_M: np.ndarray) -> np.ndarray:
    """CRC-32 of each image's bytes, combined (exclusive or) with its label times 0x9E3779B1, so that neither changes
    unseen; uint32 (M,)."""
    crc_M = np.fromiter(map(zlib.crc32, images), np.uint32)
    return crc_M ^ (labels_M.astype(np.uint32) * np.uint32(0x9E3779B1))


def write_raw(path: Path, images_NCHW: np.ndarray, labels_N: np.ndarray) -> None:
    """Write pixels, uint8 (N, C, H, W), and labels."""
    images = np.ascontiguousarray(images_NCHW)
    schema = raw_schema(images.shape[1:])
    # By hand: pyarrow's own way guesses an order of axes from the strides, which says nothing where an axis has length 1.
    flat = pa.FixedSizeListArray.from_arrays(pa.array(images.reshape(-1)), int(np.prod(images.shape[1:])))
    column = pa.ExtensionArray.from_storage(schema.field(IMAGE).type, flat)
    _write(path, schema, [column, labels_N, checksums(images, labels_N)])


def write_encoded(path: Path, images: Sequence[bytes], labels_N: np.ndarray) -> None:
    """Write encoded images and labels."""
    _write(path, ENCODED_SCHEMA, [images, labels_N, checksums(images, labels_N)])


def _write(path: Path, schema: pa.Schema, columns: Sequence[Any]) -> None:
    arrays = [
        column if isinstance(column, pa.Array) else pa.array(column, field.type)
        for column, field in zip(columns, schema, strict=True)
    ]

    def write(aside: Path) -> None:
        with pa.OSFile(str(aside), "wb") as file, pa.ipc.new_file(file, schema) as writer:
            writer.write_batch(pa.record_batch(arrays, schema=schema))

    write_aside(path, write)


class Shard:
    """An open file.

    images: of the file, mapped: uint8 (N, C, H, W), or encoded ones. labels_N: int32. checksums_N: see `checksums`.
    shape: C, H, W; None where images are encoded.
    """

    # Each row that is read looks into another file of thousands, so that none of this is in the processor's cache.
    __slots__ = ("checksums_N", "images", "labels_N", "path", "shape")

    def __init__(self, path: Path) -> None:
        """Raises:
        DamagedShardError: it is no file of images, or not whole.
        """
        self.path = path
        try:
            batch = self._batch(path)
        except (pa.ArrowException, OSError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise DamagedShardError(f"{path} is not a whole Arrow file ({reason})") from error
        names = [IMAGE, LABEL, CHECKSUM]
        if batch.schema.names != names:
            raise DamagedShardError(f"{path} has columns {', '.join(batch.schema.names)}, not {', '.join(names)}")
        images = batch.column(0)
        self.shape: tuple[int, int, int] | None = None
        if isinstance(images.type, pa.FixedShapeTensorType) and len(images.type.shape) == 3:
            self.shape = tuple(images.type.shape)
        if batch.schema != (raw_schema(self.shape) if self.shape else ENCODED_SCHEMA):
            raise DamagedShardError(f"{path} has columns of other types: {str(batch.schema).replace(chr(10), ', ')}")
        self.labels_N: np.ndarray = batch.column(1).to_numpy()
        self.checksums_N: np.ndarray = batch.column(2).to_numpy()
        self.images: np.ndarray | pa.LargeBinaryArray = images.to_numpy_ndarray() if self.shape else images

    @staticmethod
    def _batch(path: Path) -> pa.RecordBatch:
        with pa.ipc.open_file(pa.memory_map(str(path))) as file:
            if file.num_record_batches != 1:
                raise pa.ArrowInvalid(f"{file.num_record_batches} record batches, not 1")
            batch = file.get_batch(0)
        batch.validate()
        return batch

    def __len__(self) -> int:
        return len(self.labels_N)
