"""A published set of images to Parquet files, a portion at a time."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from afa_dist.data.generated import DATASET
from afa_dist.data.npz import NpzImages
from afa_dist.data.writing import IMAGE, file_name, png, write_rows
from afa_dist.errors import Problem, UserError
from afa_dist.files import sha256, write_json

PORTION = 1000
"""Images read and encoded at once: some megabytes."""

SCHEMA = pa.schema([("image", IMAGE), ("label", pa.int64()), ("index", pa.int64())])

OnPart = Callable[[int, int], None]
"""Hears how many images of how many are done."""


def class_names(images: NpzImages, given: tuple[str, ...]) -> tuple[str, ...]:
    """Names of the classes of a set.

    Raises:
        UserError: labels are out of range.
    """
    low, high = int(images.labels_N.min(initial=0)), int(images.labels_N.max(initial=0))
    classes = given or tuple(str(number) for number in range(high + 1))
    if low < 0 or high >= len(classes):
        row = int(np.flatnonzero((images.labels_N < 0) | (images.labels_N >= len(classes)))[0])
        allowed = f"0 to {len(classes) - 1} ({len(classes)} classes)"
        raise UserError.one(
            str(images.path), f"label {images.labels_N[row]} of image {row} is out of range; allowed: {allowed}"
        )
    return classes


def dest_problems(dest: Path) -> Iterator[Problem]:
    """Whether there is no place for the files."""
    if dest.exists() and (not dest.is_dir() or any(dest.iterdir())):
        yield Problem("dest", f"{dest} exists and is not an empty folder; choose another one")
    elif not os.access(next(parent for parent in (dest, *dest.absolute().parents) if parent.exists()), os.W_OK):
        yield Problem("dest", f"{dest} cannot be made: its folder cannot be written to")


def convert(images: NpzImages, dest: Path, classes: tuple[str, ...], shard_size: int, on_part: OnPart) -> dict[str, Any]:
    """Write all images into `dest`, which appears when all are there; returns what is recorded in its dataset.json.

    Raises:
        UserError: the file is damaged; nothing is left of it.
    """
    aside = dest.with_name(f".{dest.name}.new")
    shutil.rmtree(aside, ignore_errors=True)
    files = []
    try:
        count = -(-images.count // shard_size)
        for number, table in enumerate(_tables(images, shard_size, on_part)):
            path = aside / file_name(number, count)
            write_rows(path, table, classes)
            files.append({"name": path.name, "rows": len(table), "sha256": sha256(path)})
        record = {
            "images": images.count,
            "classes": list(classes),
            "per_class": np.bincount(images.labels_N, minlength=len(classes)).tolist(),
            "shape": list(images.shape),
            "source": {"name": images.path.name, "sha256": sha256(images.path)},
            "files": files,
        }
        write_json(aside / DATASET, record)
        if dest.exists():
            dest.rmdir()  # it was empty
        aside.rename(dest)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return record


def _tables(images: NpzImages, shard_size: int, on_part: OnPart) -> Iterator[pa.Table]:
    """Rows of one file after another."""
    shards = [min(shard_size, images.count - start) for start in range(0, images.count, shard_size)]
    counts = [[min(PORTION, shard - start) for start in range(0, shard, PORTION)] for shard in shards]
    portions = images.portions(itertools.chain.from_iterable(counts))
    done = 0
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for parts in counts:
            tables = []
            for pixels in itertools.islice(portions, len(parts)):
                numbers = np.arange(done, done + len(pixels))
                encoded = threads.map(png, pixels)  # zlib lets go of the interpreter
                rows = [{"bytes": data, "path": f"{number:09d}.png"} for data, number in zip(encoded, numbers, strict=True)]
                columns = [rows, images.labels_N[numbers], numbers]
                tables.append(pa.table([pa.array(v, f.type) for v, f in zip(columns, SCHEMA, strict=True)], SCHEMA))
                done += len(pixels)
                on_part(done, images.count)
            yield pa.concat_tables(tables)
        next(portions, None)  # at its end the file's checksum is compared
