"""Scores any part of a set of images that is there already."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from afa_dist.config import SelectRun
from afa_dist.data.stored import Stored
from afa_dist.diffusion.rows import Scorer, table_of
from afa_dist.errors import UserError
from afa_dist.training.execution import compiles
from afa_dist.training.step import autocast

CHECKSUM = "crc32"
"""Column of the candidates: that of an image's bytes when it was scored."""


class Selector:
    """Scores images of a set; made once for each process that takes part."""

    def __init__(self, run: SelectRun, stored: Stored, classes: int, scorer: nn.Module | None, device: str) -> None:
        self.run, self.stored, self.device = run, stored, torch.device(device)
        self.scorer = Scorer(scorer, classes, run.labels, self.device)
        if self.scorer.net is not None and compiles(run.scaling.compile, self.device):
            self.scorer.net.compile()

    def rows(self, start: int, stop: int) -> pa.Table:
        """Rows start to stop - 1, without what stays as it is: `completed` adds it."""
        numbers = np.arange(start, stop)
        encoded = self.stored.encoded(numbers)
        with autocast(self.device, self.run.scaling.precision == "bf16"):
            intended = self.stored.labels_N[start:stop].astype(np.int64)
            found = self.scorer.columns(self.stored.images(encoded), intended, numbers)
        sums = pa.array(_checksums(image.data for image in encoded), pa.uint32())
        return table_of({**found, "index": numbers}).append_column(CHECKSUM, sums)


def _checksums(images: Iterable[object]) -> list[int]:
    return [zlib.crc32(image) for image in images]  # type: ignore[arg-type]  # bytes, since they come from a table


def completed(stored: Stored, table: pa.Table) -> pa.Table:
    """Rows as `Selector` gives them, with the images and their seeds.

    Raises:
        UserError: an image is not the one that was scored.
    """
    numbers = table["index"].to_numpy()
    kept = stored.rows(numbers)
    changed = np.array(_checksums(row["bytes"] for row in kept["image"].to_pylist())) != table[CHECKSUM].to_numpy()
    if changed.any():
        what = f"{stored.folder} has changed since it was scored, row {numbers[changed][0]} for one; choose another name"
        raise UserError.one("images", what)
    columns = {name: table[name] for name in table.column_names if name != CHECKSUM}
    return table_of({**columns, **{name: kept[name] for name in kept.column_names}})
