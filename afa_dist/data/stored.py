"""A set of images in Parquet files that is read row by row, and never as a whole.

Legend: N images of the set, B images read at once, C channels, H height, W width.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from afa_dist.data.decode import Encoded, decode_images
from afa_dist.data.generated import check_files, record_of
from afa_dist.data.image_set import label_problems
from afa_dist.data.parquet import class_names, image_and_label, named_failures, split_files
from afa_dist.data.writing import IMAGE
from afa_dist.errors import UserError
from afa_dist.files import sha256


@dataclasses.dataclass(frozen=True)
class _Group:
    """A row group of a file, the name of its image column, and the number of its first row in the set and in its file."""

    path: Path
    number: int
    image: str
    first: int
    first_of_file: int


class StoredImages:
    """classes: as the files name them, else empty. labels_N: int64. shape: C, H, W of the first image."""

    def __init__(self, folder: Path) -> None:
        """Reads everything but the images.

        Raises:
            UserError: there are none, some are missing, or they are not images with labels.
        """
        if not folder.is_dir():
            raise UserError.one("images", f"{folder} is not a folder that can be read")
        if (folder / "config.yaml").exists() and not (folder / "data").exists():
            raise UserError.one("images", f"{folder} holds no images (yet); finish generate.py first")
        self.folder = folder
        self.files = split_files(folder, "train")
        if not self.files:
            raise UserError.one("images", f"{folder} holds no train*.parquet (looked in it, in data/ and in train/)")
        check_files(folder, "images")
        self.classes: tuple[str, ...] = ()
        self._groups: list[_Group] = []
        self._read: tuple[_Group, pa.Table] | None = None
        labels: list[np.ndarray] = []
        for path in self.files:
            labels.append(self._open(path, sum(map(len, labels))))
        self.labels_N = np.concatenate(labels)
        self._firsts = np.array([group.first for group in self._groups])
        if not len(self.labels_N):
            raise UserError.one("images", f"{folder} holds no rows")
        known = self.classes or tuple(map(str, range(int(self.labels_N.max()) + 1)))
        if problems := list(label_problems(self.labels_N, known, str(folder), training=False)):
            raise UserError(problems)
        self.shape: tuple[int, int, int] = tuple(self.images(0, 1).transpose(0, 3, 1, 2).shape[1:])

    def __len__(self) -> int:
        return len(self.labels_N)

    def _open(self, path: Path, first: int) -> np.ndarray:
        """Labels of a file, whose row groups are put down; its first row is number `first` of the set."""
        with named_failures(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
            image, label = image_and_label(file.schema_arrow, path)
            names = class_names(file.schema_arrow, label)
            if names and self.classes and names != self.classes:
                raise UserError.one(str(path), "names other classes than a file before it; write them with one list")
            self.classes = self.classes or names
            column = file.read([label])[label]
            of_file = 0
            for number in range(file.num_row_groups):
                self._groups.append(_Group(path, number, image, first + of_file, of_file))
                of_file += file.metadata.row_group(number).num_rows
        if column.null_count:
            raise UserError.one(str(path), f"{column.null_count} rows have no {label}")
        labels: np.ndarray = column.to_numpy().astype(np.int64)
        return labels

    def sha256(self) -> str:
        """Over names and contents of all files; those of files whose SHA-256 is recorded are not read for it."""
        recorded = {str(file["name"]): str(file.get("sha256", "")) for file in record_of(str(self.folder)).get("files", ())}
        digest = hashlib.sha256()
        for path in self.files:
            digest.update(f"{path.name}\0{recorded.get(path.name) or sha256(path)}\0".encode())
        return digest.hexdigest()

    def rows(self, rows: np.ndarray) -> pa.Table:
        """Rows of ascending numbers: `image`, struct{bytes, path}, and `seed`, null where the files have none."""
        return pa.concat_tables(list(self._tables(rows)))

    def images(self, start: int, stop: int) -> np.ndarray:
        """Pixels of rows start to stop - 1, uint8 (B, H, W, C).

        Raises:
            UserError: an image does not decode, or they are of different sizes.
        """
        encoded = self.rows(np.arange(start, stop))["image"]

        def at(place: int) -> Encoded:
            group = self._group(start + place)
            row = start + place - group.first + group.first_of_file
            return Encoded((encoded[place].as_py() or {}).get("bytes") or b"", str(group.path), f"row {row}")

        pixels: np.ndarray = decode_images(len(encoded), at).permute(0, 2, 3, 1).numpy()
        return pixels

    def _group(self, row: int) -> _Group:
        return self._groups[int(np.searchsorted(self._firsts, row, side="right")) - 1]

    def _tables(self, rows: np.ndarray) -> Iterator[pa.Table]:
        """The rows (ascending), group by group."""
        numbers = np.searchsorted(self._firsts, rows, side="right") - 1
        for number in np.unique(numbers).tolist():
            group = self._groups[number]
            yield self._table(group).take(rows[numbers == number] - group.first)

    def _table(self, group: _Group) -> pa.Table:
        """A row group; the last one is kept, since the next rows are mostly of it."""
        if self._read is None or self._read[0] != group:
            with named_failures(group.path), pq.ParquetFile(group.path, page_checksum_verification=True) as file:
                known = ["seed"] if "seed" in file.schema_arrow.names else []
                table = file.read_row_group(group.number, [group.image, *known])
            seeds = table["seed"].cast(pa.int64()) if known else pa.nulls(len(table), pa.int64())
            images = table[group.image].cast(IMAGE) if table[group.image].type != IMAGE else table[group.image]
            self._read = (group, pa.table({"image": images, "seed": seeds}))
        return self._read[1]
