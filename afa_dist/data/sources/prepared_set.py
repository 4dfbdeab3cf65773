"""A prepared set as a source: to look at, or to prepare in another form."""

from __future__ import annotations

import numpy as np

from afa_dist.data.open_shards import OpenShards
from afa_dist.data.prepared import file_problems, labels_of, read_record
from afa_dist.data.set_place import SetPlace
from afa_dist.data.sources.base import Piece, Source
from afa_dist.errors import UserError, named_by


class Prepared(Source):
    """The rows of Arrow files, each checked as it is read."""

    def __init__(self, place: SetPlace) -> None:
        with named_by("source"):
            record = read_record(place)
            parts = record.splits.values()
            every = [file for part in parts for file in (*part.files, part.labels)]
            if problems := [*file_problems(place, record), *place.room_problems(every)]:
                raise UserError(problems)
            self.labels = {split: labels_of(place, part).astype(np.int32) for split, part in record.splits.items()}
        self.classes = record.classes
        self.pixels = record.shape if record.storage == "raw" else None
        files = {split: [file.sha256 for file in part.files] for split, part in record.splits.items()}
        self.identity = {"kind": "prepared", "name": place.name.rstrip("/").rpartition("/")[2], "files": files}
        self._shards = {
            split: OpenShards(part.files, place.whereabouts(part.files), self.labels[split], self.pixels)
            for split, part in record.splits.items()
        }

    def read(self, split: str, start: int, stop: int) -> Piece:
        rows = np.arange(start, stop)
        with named_by("source"):
            return self._shards[split].raw(rows) if self.pixels is not None else self._shards[split].encoded(rows)
