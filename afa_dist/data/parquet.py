"""Parquet files in the Hugging Face image layout: a struct{bytes, path} column and an integer label column."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from afa_dist.data.decode import Encoded, decode_images
from afa_dist.data.image_set import ImageSet, choose_rows, label_problems
from afa_dist.data.remote import RemoteFile, RemoteFolder
from afa_dist.data.writing import read_rows
from afa_dist.errors import Problem, UserError

SHOWN = 10
"""Class names in a message."""

LABEL_COLUMNS = ("label", "labels", "fine_label")


@dataclasses.dataclass(frozen=True)
class _Table:
    """Undecoded rows of one split, and the file each came from."""

    images: pa.ChunkedArray
    labels_N: np.ndarray
    classes: tuple[str, ...]
    files: list[tuple[Path, int]]
    """Files in order, each with its number of rows."""

    def origin(self, row: int) -> tuple[Path, int]:
        """The file that holds `row`, and the row's number in it."""
        for path, rows in self.files:
            if row < rows:
                return path, row
            row -= rows
        raise IndexError(row)


def split_files(folder: Path, split: str) -> list[Path]:
    """Files of one split, in the order of their names: SPLIT*.parquet in `folder`, its `data/` or its `SPLIT/`."""
    for pattern in (f"{split}*.parquet", f"data/{split}*.parquet", f"{split}/*.parquet"):
        if found := sorted(folder.glob(pattern)):
            return found
    return []


def remote_split_files(folder: RemoteFolder, split: str) -> list[RemoteFile]:
    """The same of a folder at an address."""
    for place, beginning in ((folder, split), (folder.within("data"), split), (folder.within(split), "")):
        names = {name: size for name, size in place.sizes().items() if name.endswith(".parquet")}
        if found := [RemoteFile(place, name, names[name]) for name in sorted(names) if name.startswith(beginning)]:
            return found
    return []


def load_parquet(folder: Path, split: str, limit: int = 0, image_size: int = 0, *, evenly: bool = True) -> ImageSet:
    """Read and decode one split, or `limit` images of it: chosen evenly by class, or the first ones.

    Raises:
        UserError: no such file, a file that is not readable Parquet, columns missing, labels out of range, a class
            with one image, an image that does not decode, or images of different sizes (with image_size, the side of the
            square they are brought to, they may differ). It names file and row.
    """
    files = split_files(folder, split)
    if not files:
        raise UserError.one(str(folder), f"holds no {split}*.parquet (looked in it, in data/ and in {split}/)")
    table = _read(files)
    problems = list(_label_problems(table, training=split == "train" and evenly))
    if problems:
        raise UserError(problems)
    rows = (
        choose_rows(table.labels_N, limit) if evenly else np.arange(min(limit or len(table.labels_N), len(table.labels_N)))
    )
    images = _decode(table, rows, image_size)
    return ImageSet(images, torch.from_numpy(table.labels_N[rows]), table.classes)


def _read(files: list[Path]) -> _Table:
    images: list[pa.Array] = []
    labels: list[np.ndarray] = []
    counts: list[tuple[Path, int]] = []
    classes: tuple[str, ...] = ()
    for path in files:
        with named_failures(path):
            schema = pq.read_schema(path)
            image_column, label_column = image_and_label(schema, path)
            table = read_rows(path, [image_column, label_column])
        names = class_names(schema, label_column)
        if names and classes and names != classes:
            what = f"names the classes {_shown(names)}, a file before it {_shown(classes)}; write them with one list"
            raise UserError.one(str(path), what)
        classes = classes or names
        column = table.column(label_column)
        if column.null_count:
            raise UserError.one(str(path), f"{column.null_count} rows have no {label_column}")
        labels.append(column.to_numpy().astype(np.int64))
        images.extend(table.column(image_column).chunks)
        counts.append((path, table.num_rows))
    labels_N = np.concatenate(labels)
    if not classes and len(labels_N):
        classes = tuple(str(index) for index in range(int(labels_N.max()) + 1))
    return _Table(pa.chunked_array(images, type=images[0].type), labels_N, classes, counts)


@contextlib.contextmanager
def named_failures(path: Path | RemoteFile) -> Iterator[None]:
    """Inside, a file that cannot be read is the person's mistake, by name.

    Raises:
        UserError: it is not whole.
    """
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError.one(str(path), f"is not a whole Parquet file ({reason}); fetch or write it again") from error


def image_and_label(schema: pa.Schema, path: Path | RemoteFile) -> tuple[str, str]:
    """Names of the image and the label column.

    Raises:
        UserError: there are none.
    """
    columns = ", ".join(schema.names)
    image = [f.name for f in schema if pa.types.is_struct(f.type) and any(child.name == "bytes" for child in f.type)]
    label = [name for name in LABEL_COLUMNS if name in schema.names and pa.types.is_integer(schema.field(name).type)]
    problems = []
    if not image:
        problems.append(Problem(str(path), f"has no image column of type struct{{bytes, path}}; its columns: {columns}"))
    if not label:
        wanted = ", ".join(LABEL_COLUMNS)
        problems.append(Problem(str(path), f"has no integer label column ({wanted}); its columns: {columns}"))
    if problems:
        raise UserError(problems)
    return image[0], label[0]


def class_names(schema: pa.Schema, label_column: str) -> tuple[str, ...]:
    """Class names from the Hugging Face part of the schema's metadata; empty when it has none."""
    try:
        info = json.loads((schema.metadata or {})[b"huggingface"])
        return tuple(info["info"]["features"][label_column]["names"])
    except (KeyError, TypeError, ValueError):
        return ()


def _shown(classes: tuple[str, ...]) -> str:
    return ", ".join(classes[:SHOWN]) + (", ..." if len(classes) > SHOWN else "")


def _label_problems(table: _Table, *, training: bool) -> Iterator[Problem]:
    names = str(table.files[0][0]) if len(table.files) == 1 else f"{table.files[0][0]} and {len(table.files) - 1} more"
    yield from label_problems(table.labels_N, table.classes, names, training=training)


def _decode(table: _Table, rows: np.ndarray, image_size: int) -> torch.Tensor:
    def encoded(position: int) -> Encoded:
        row = int(rows[position])
        path, number = table.origin(row)
        # Chunk by chunk as read: one Arrow array cannot hold more than 2 GiB of encoded images.
        image = table.images[row].as_py() or {}
        return Encoded(image.get("bytes") or b"", str(path), f"row {number}")

    return decode_images(len(rows), encoded, image_size)
