"""A prepared set to choose images from.

Legend: M rows asked for.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from afa_dist.config import DataConfig
from afa_dist.data.decode import Encoded
from afa_dist.data.generated import record_of
from afa_dist.data.mapped import MappedImages
from afa_dist.data.prepared import load_prepared
from afa_dist.data.stored import Stored, StoredImages
from afa_dist.data.writing import IMAGE, png
from afa_dist.errors import named_by


def open_stored(folder: Path, *, unlabelled: bool, colour: bool | None) -> Stored:
    """The set in a folder; see `StoredImages`.

    Raises:
        UserError: there is none, or it is not whole.
    """
    if record_of(str(folder)).get("form") == "arrow":
        return PreparedImages(folder)
    return StoredImages(folder, unlabelled=unlabelled, colour=colour)


class PreparedImages(Stored):
    """The training images of a prepared set; raw ones are given as PNG."""

    def __init__(self, folder: Path) -> None:
        """Raises:
        UserError: it is not whole, or its images have many sizes.
        """
        self.folder, self.option = folder.expanduser().resolve(), "images"
        with named_by(self.option):
            found = load_prepared(DataConfig(name="prepared", path=str(self.folder)), "train")
        assert isinstance(found.images_NCHW, MappedImages)
        self._images = found.images_NCHW
        self.classes, self.shape = found.classes, found.shape
        self.labels_N = found.labels_N.numpy().astype(np.int32)
        self.fingerprint = found.fingerprint()

    def rows(self, rows_M: np.ndarray) -> pa.Table:
        images = [{"bytes": image.data, "path": None} for image in self.encoded(rows_M)]
        return pa.table({"image": pa.array(images, IMAGE), "seed": pa.nulls(len(rows_M), pa.int64())})

    def encoded(self, rows_M: np.ndarray) -> list[Encoded]:
        shards = self._images.shards
        if shards.shape is None:
            return shards.encoded(rows_M)
        pixels = shards.raw(rows_M).transpose(0, 2, 3, 1)
        return [Encoded(png(image), str(self.folder), f"row {row}") for image, row in zip(pixels, rows_M, strict=True)]
