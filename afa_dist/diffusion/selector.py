"""Scores any part of a set of images that is there already."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from afa_dist.config import SelectRun
from afa_dist.data.stored import StoredImages
from afa_dist.diffusion.rows import Scorer, table_of
from afa_dist.training.execution import compiles
from afa_dist.training.step import autocast


class Selector:
    """Scores images of a set; made once for each process that takes part."""

    def __init__(self, run: SelectRun, stored: StoredImages, classes: int, scorer: nn.Module | None, device: str) -> None:
        self.run, self.stored, self.device = run, stored, torch.device(device)
        self.scorer = Scorer(scorer, classes, run.labels, self.device)
        if self.scorer.net is not None and compiles(run.scaling.compile, self.device):
            self.scorer.net.compile()

    def rows(self, start: int, stop: int) -> pa.Table:
        """Rows start to stop - 1, without what stays as it is: `completed` adds it."""
        images_BHWC = self.stored.images(start, stop)
        with autocast(self.device, self.run.scaling.precision == "bf16"):
            found = self.scorer.columns(images_BHWC, self.stored.labels_N[start:stop])
        return table_of({**found, "index": np.arange(start, stop)})


def completed(stored: StoredImages, table: pa.Table) -> pa.Table:
    """Rows as `Selector` gives them, with the images and their seeds."""
    kept = stored.rows(table["index"].to_numpy())
    return table_of(
        {**dict(zip(table.column_names, table.columns, strict=True)), **{n: kept[n] for n in kept.column_names}}
    )
