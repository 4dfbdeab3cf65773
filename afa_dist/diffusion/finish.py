"""From all candidates to the data set: the best of each class, in files like those of real data."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from afa_dist.config import SetRun
from afa_dist.data.catalogue import DataSplits
from afa_dist.data.decode import Encoded, decode_images
from afa_dist.data.generated import DATASET
from afa_dist.data.image_set import ImageSet
from afa_dist.data.loader import placed
from afa_dist.data.portions import Portions, row_groups
from afa_dist.data.sheet import COLUMNS, MOST_ROWS, contact_sheet
from afa_dist.data.writing import file_name
from afa_dist.diffusion.nearest import closeness
from afa_dist.diffusion.rows import SCHEMA
from afa_dist.diffusion.selection import chosen
from afa_dist.diffusion.shards import read_shard, write_shard
from afa_dist.errors import UserError
from afa_dist.files import sha256, write_aside, write_json

DATA = "data"
SHEET = "samples.png"

Tick = Callable[[], None]

Completed = Callable[[pa.Table], pa.Table]


class Finish:
    """folder: the run directory. candidates: files of all rows made, in order, each with its number of rows; written
    under `identity`. facts: what the set depends on, for its record. real: images to compare with, or None.
    completed: adds the columns that the files leave out."""

    def __init__(
        self,
        run: SetRun,
        folder: Path,
        candidates: Sequence[tuple[Path, int]],
        identity: str,
        facts: Mapping[str, Any],
        real: DataSplits | None,
        completed: Completed,
        tick: Tick,
    ) -> None:
        self.run, self.folder, self.identity, self.facts, self.real = run, folder, identity, facts, real
        self.candidates = list(candidates)
        self.classes: list[str] = facts["classes"]
        self.completed, self.tick = completed, tick

    def summary(self) -> dict[str, Any]:
        """Write the data set and the contact sheet; returns what there is to say of them."""
        drawn = self._columns()
        rows = self._rows(drawn)
        files = self._link() if len(rows) == len(drawn["label"]) and self._whole() else self._write(rows)
        labels_N = drawn["label"][rows]
        record: dict[str, Any] = {
            "images": len(rows),
            "drawn": len(drawn["label"]),
            "classes": self.classes,
            "per_class": np.bincount(labels_N, minlength=len(self.classes)).tolist(),
            "made_by": {key: value for key, value in self.facts.items() if key != "classes"},
        }
        if self.run.scorer:
            meant = drawn["intended"] >= 0
            same = (drawn["predicted"] == drawn["intended"])[meant]
            record["agreement"] = float(same.mean()) if len(same) else None
            record["least_score"] = float(drawn["score"][rows].min())
        written = Portions(row_groups([self.folder / DATA / file["name"] for file in files], ("image",)))
        contact_sheet(self._first_of_each(written, labels_N)).save(self.folder / SHEET)
        if self.real is not None:
            some = np.unique(np.linspace(0, len(rows) - 1, min(self.run.nearest, len(rows))).round().astype(int))
            record["nearest"] = self._closeness(self._decoded(written, some), labels_N[some])
        write_json(self.folder / DATA / DATASET, {**record, "files": files})
        return record

    def _columns(self) -> dict[str, np.ndarray]:
        """Everything but the images."""
        names = ["label", "intended", *(("predicted", "score") if self.run.scorer else ())]
        tables = []
        for path, rows in self.candidates:
            table = read_shard(path, self.identity, rows, names)
            kinds = [pa.float64() if name == "score" else pa.int32() for name in names]  # 20 bytes a row
            tables.append(table.cast(pa.schema(list(zip(names, kinds, strict=True)))))
            self.tick()
        whole = pa.concat_tables(tables)
        return {name: whole[name].to_numpy() for name in names}

    def _rows(self, drawn: Mapping[str, np.ndarray]) -> np.ndarray:
        count = self.run.count or len(drawn["label"])
        if not self.run.scorer or (self.run.keep == 1 and len(drawn["label"]) == count):
            return np.arange(len(drawn["label"]))
        rows = chosen(drawn["label"], drawn["score"], self.run.keep, count, len(self.classes))
        if not len(rows):
            raise UserError.one("keep", f"{self.run.keep:g} leaves none of {len(drawn['label'])} images; keep more")
        if self.run.count and len(rows) < count:
            few = f"the best {self.run.keep:g} of each class come to {len(rows)} images, not {count}"
            warnings.warn(f"{few}: the scorer's labels are not even", stacklevel=2)
        return rows

    def _whole(self) -> bool:
        """Whether the files of the candidates are complete as they are."""
        return pq.read_schema(self.candidates[0][0]).names == SCHEMA.names

    def _link(self) -> list[dict[str, Any]]:
        """All of the candidates are the set: their files under other names, without a second copy where links are known."""
        files = []
        for number, (path, rows) in enumerate(self.candidates):
            target = self._target(number, len(self.candidates))
            write_aside(target, lambda aside, path=path: _linked(path, aside))  # type: ignore[misc]
            files.append({"name": target.name, "rows": rows, "sha256": sha256(target)})
            self.tick()
        return files

    def _write(self, rows: np.ndarray) -> list[dict[str, Any]]:
        """The chosen rows in new files, one candidate file in memory at a time."""
        size = self.run.shard_size
        count = -(-len(rows) // size)
        files: list[dict[str, Any]] = []
        waiting: list[pa.Table] = []
        for table in self._chosen(rows):
            waiting.append(table)
            whole = pa.concat_tables(waiting)
            last = sum(file["rows"] for file in files) + len(whole) == len(rows)
            while len(whole) >= size or (last and len(whole)):
                target = self._target(len(files), count)
                write_shard(target, whole[:size], self.classes, self.identity)
                files.append({"name": target.name, "rows": len(whole[:size]), "sha256": sha256(target)})
                whole = whole[size:]
            waiting = [whole]
            self.tick()
        return files

    def _chosen(self, rows: np.ndarray) -> Iterator[pa.Table]:
        """The chosen rows of each candidate file."""
        start = 0
        for path, count in self.candidates:
            first, last = np.searchsorted(rows, [start, start + count])
            if last > first:
                yield self.completed(read_shard(path, self.identity, count).take(rows[first:last] - start))
            start += count

    def _target(self, number: int, count: int) -> Path:
        folder = self.folder / DATA
        folder.mkdir(exist_ok=True)
        return folder / file_name(number, count)

    def _first_of_each(self, written: Portions, labels_N: np.ndarray) -> list[list[torch.Tensor]]:
        """The first images of each class that has any, (C, H, W) each."""
        first = [np.flatnonzero(labels_N == label)[:COLUMNS] for label in range(min(len(self.classes), MOST_ROWS))]
        shown = np.sort(np.concatenate(first))
        images = dict(zip(shown.tolist(), self._decoded(written, shown), strict=True))
        return [[images[row] for row in part.tolist()] for part in first if len(part)]

    def _closeness(self, images_NCHW: torch.Tensor, labels_N: np.ndarray) -> dict[str, Any] | None:
        assert self.real is not None
        drawn = ImageSet(images_NCHW, torch.from_numpy(labels_N), tuple(self.classes))
        if drawn.shape != self.real.train.shape:
            sizes = [" x ".join(map(str, shape)) for shape in (drawn.shape, self.real.train.shape)]
            warnings.warn(f"images of {sizes[0]} are not compared with real ones of {sizes[1]}", stacklevel=2)
            return None
        assert self.run.data is not None
        # Of the machine that finishes, which need not be one that drew.
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        parts = [placed(part, device) for part in (drawn, self.real.train, self.real.test)]
        if any(part.images_NCHW.device.type != device.type for part in parts):
            parts = [part.to(torch.device("cpu")) for part in parts]
        return closeness(parts[0], parts[1], parts[2], self.run.data.flip, self.tick)

    def _decoded(self, written: Portions, rows: np.ndarray) -> torch.Tensor:
        """Pixels of rows (ascending) of the set."""
        images = pa.concat_tables([table for _, table in written.tables(rows)])["image"]
        return decode_images(len(rows), lambda i: Encoded(images[i].as_py()["bytes"], str(self.folder), f"row {rows[i]}"))


def _linked(path: Path, aside: Path) -> None:
    try:
        os.link(path, aside)
    except OSError:  # a file system without links
        shutil.copyfile(path, aside)
