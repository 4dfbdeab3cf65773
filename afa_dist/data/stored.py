"""Sets of images that are read row by row, and never as a whole: those in Parquet files, and what all have in common.

Legend: N images of the set, B images read at once, M rows asked for, C channels, H height, W width.
"""

from __future__ import annotations

import dataclasses
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from afa_dist.data.decode import Encoded, decode_images, sizes_of, unnoticed
from afa_dist.data.generated import check_files
from afa_dist.data.parquet import class_names, image_and_label, named_failures, remote_split_files, split_files
from afa_dist.data.portions import Portions, RowGroup, opened, row_groups
from afa_dist.data.remote import RemoteFile, RemoteFolder
from afa_dist.data.writing import IMAGE
from afa_dist.errors import Problem, UserError, named_by

MOST_CLASSES = 1_000_000
"""Labels beyond it are taken for something else."""

LOOKED_AT = 16
"""Images whose colour decides whether a set is grey, where nothing else does."""

UNLABELLED = -1


class Stored(ABC):
    """Images that are chosen from by `generate.py select`.

    folder, option: where they lie, and what named it. classes: as the files name them, else empty. labels_N: int32, the
    class that each was drawn for, or came with; -1 where there is none. shape: C, H, W of all images. fingerprint: over
    names, sizes and labels of all files; images that change without it are noticed when they are read for the second time.
    """

    folder: Path
    option: str
    classes: tuple[str, ...]
    labels_N: np.ndarray
    shape: tuple[int, int, int]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.labels_N)

    @abstractmethod
    def rows(self, rows_M: np.ndarray) -> pa.Table:
        """Rows of ascending numbers: `image`, struct{bytes, path}, and `seed`, null where it is not known."""

    @abstractmethod
    def encoded(self, rows_M: np.ndarray) -> list[Encoded]:
        """Encoded images of ascending row numbers."""

    def images(self, encoded: list[Encoded]) -> np.ndarray:
        """Pixels of images, uint8 (B, H, W, C).

        Raises:
            UserError: one does not decode, or is of another size than the others.
        """
        with named_by(self.option), unnoticed():
            pixels = decode_images(len(encoded), encoded.__getitem__, colour=self.shape[0] == 3, shape=self.shape)
        found: np.ndarray = pixels.permute(0, 2, 3, 1).numpy()
        return found


class StoredImages(Stored):
    """Those in Parquet files."""

    def __init__(
        self,
        folder: Path | RemoteFolder,
        *,
        split: str = "train",
        option: str = "images",
        intended: bool = True,
        unlabelled: bool = False,
        colour: bool | None = None,
    ) -> None:
        """Reads everything but the images.

        option: what named the folder. intended: whether the column of that name counts where there is one, rather than the
        label. unlabelled: whether images may have the label -1. colour: whether images have 3 channels, where some may be
        grey; None = if one of `LOOKED_AT` has.

        Raises:
            UserError: there are none, some are missing, or they are not images with labels.
        """
        self.option, self._intended = option, intended
        self.files: list[Path] | list[RemoteFile]
        if isinstance(folder, RemoteFolder):
            self.place, self.files = folder.place, remote_split_files(folder, split)
        else:
            self.folder = folder.expanduser().resolve()
            self.place, self.files = str(self.folder), _files_in(self.folder, split, option)
        if not self.files:
            raise UserError.one(option, f"{self.place} holds no {split}*.parquet (looked in it, in data/ and in {split}/)")
        self.classes: tuple[str, ...] = ()
        digest = hashlib.sha256()
        groups: list[RowGroup] = []
        self.labels_N = np.concatenate([self._open(path, groups, digest) for path in self.files])
        if problems := list(self._label_problems(unlabelled)):
            raise UserError(problems)
        self.fingerprint = digest.hexdigest()
        self._portions = Portions(groups)
        self.shape = self._shape(colour)

    def rows(self, rows_M: np.ndarray) -> pa.Table:
        tables = []
        for group, table in self._portions.tables(rows_M):
            with named_failures(group.path):
                image = table[group.columns[0]]
                tables.append(
                    pa.table({"image": image if image.type == IMAGE else image.cast(IMAGE), "seed": _seeds(table)})
                )
        return pa.concat_tables(tables)

    def encoded(self, rows_M: np.ndarray) -> list[Encoded]:
        images = self.rows(rows_M)["image"].to_pylist()
        found = []
        for row, image in zip(rows_M.tolist(), images, strict=True):
            group = self._portions.group_of(row)
            where = f"row {row - group.first + group.first_of_file}"
            found.append(Encoded((image or {}).get("bytes") or b"", str(group.path), where))
        return found

    def _open(self, path: Path | RemoteFile, groups: list[RowGroup], digest: Any) -> np.ndarray:
        """Labels of a file, whose row groups are added to `groups`, and what tells it from others to `digest`."""
        with named_failures(path), opened(path) as file:
            schema = file.schema_arrow
            image, label = image_and_label(schema, path)
            label = (
                "intended" if "intended" in schema.names and pa.types.is_integer(schema.field("intended").type) else label
            )
            names = class_names(schema, label)
            if names and self.classes and names != self.classes:
                raise UserError.one(str(path), "names other classes than a file before it; write them with one list")
            self.classes = self.classes or names
            columns = (image, *(["seed"] if "seed" in schema.names else []))
            column = file.read([label])[label]
            before = groups[-1].first + groups[-1].rows if groups else 0
            groups += [dataclasses.replace(group, first=group.first + before) for group in row_groups([path], columns)]
        if column.null_count:
            raise UserError.one(str(path), f"{column.null_count} rows have no {label}")
        try:
            labels: np.ndarray = column.cast(pa.int32()).to_numpy()
        except pa.ArrowInvalid as error:
            raise UserError.one(str(path), f"{label} holds numbers that are no classes ({error})") from error
        size = path.size if isinstance(path, RemoteFile) else path.stat().st_size
        digest.update(f"{path.name} {size} {names}\n".encode() + labels.tobytes())
        return labels

    def _label_problems(self, unlabelled: bool) -> Iterator[Problem]:
        if not len(self.labels_N):
            yield Problem(self.option, f"{self.place} holds no rows")
            return
        most = len(self.classes) or MOST_CLASSES
        wrong = np.flatnonzero((self.labels_N < (UNLABELLED if unlabelled else 0)) | (self.labels_N >= most))
        if len(wrong):
            label, row = self.labels_N[wrong[0]], wrong[0]
            hint = "; images without a label can only get that of a scorer: labels scorer" if label == UNLABELLED else ""
            what = f"label {label} of row {row} is out of range; allowed: 0 to {most - 1} ({len(wrong)} rows are wrong)"
            yield Problem(self.option, f"{self.place}: {what}{hint}")

    def _shape(self, colour: bool | None) -> tuple[int, int, int]:
        """C, H, W, by the first image, and by the colour of some."""
        some = np.unique(np.linspace(0, len(self) - 1, 1 if colour is not None else LOOKED_AT).round().astype(int))
        with named_by(self.option):
            shapes = sizes_of((self.encoded(np.array([row]))[0] for row in some), colour=bool(colour))
        return (max(channels for channels, _, _ in shapes), *shapes[0][1:])


def _files_in(folder: Path, split: str, option: str) -> list[Path]:
    """Those of a split, all of them; none if there are none.

    Raises:
        UserError: some are missing.
    """
    if not folder.is_dir():
        raise UserError.one(option, f"{folder} is not a folder that can be read")
    files = split_files(folder, split)
    if not files and (folder / "config.yaml").exists():
        raise UserError.one(option, f"{folder} holds no {split}*.parquet; finish generate.py first")
    check_files(files, option, split)
    return files


def _seeds(table: pa.Table) -> pa.ChunkedArray:
    """The column `seed`, null where it is not ours: others may call something else so."""
    if "seed" in table.schema.names and table["seed"].type == pa.int64():
        return table["seed"]
    return pa.chunked_array([pa.nulls(len(table), pa.int64())])
