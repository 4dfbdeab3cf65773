"""From a source to files, each by itself.

Legend: N images of a file, C channels, H height, W width.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from afa_dist.data.decode import Encoded, decode_images, each_image, unnoticed
from afa_dist.data.layout import Layout
from afa_dist.data.open_shards import ShardFile
from afa_dist.data.shard import write_encoded, write_raw
from afa_dist.data.sources.base import Piece, Source
from afa_dist.data.writing import IMAGE, png, write_rows
from afa_dist.errors import UnreachableError, UserError
from afa_dist.files import sha256, write_json

ROWS = pa.schema([("image", IMAGE), ("label", pa.int64())])


@dataclasses.dataclass(frozen=True)
class Share:
    """One file to be: rows start to stop - 1 of a split. mark: of these rows, see `Source.mark`."""

    split: str
    number: int
    start: int
    stop: int
    name: str
    mark: str = ""


def shares_of(source: Source, layout: Layout) -> list[Share]:
    """All files of a set, in order."""
    shares = []
    for split, labels in source.labels.items():
        starts = range(0, len(labels), layout.shard_size)
        for number, start in enumerate(starts):
            stop = min(start + layout.shard_size, len(labels))
            name = f"{split}-{number:05d}-of-{len(starts):05d}.{layout.form}"
            shares.append(Share(split, number, start, stop, name, source.mark(split, start, stop)))
    return shares


class Preparer:
    """Writes files of a set into `folder`; made once for each process that takes part."""

    def __init__(self, source: Source | None, layout: Layout, classes: Sequence[str], folder: Path) -> None:
        self.source, self.layout, self.classes, self.folder = source, layout, tuple(classes), folder

    def write(self, share: Share, labels: np.ndarray, piece: Piece | None = None) -> dict[str, Any]:
        """Write a file; returns what is to be recorded of it, which is kept beside it as well; or, as `problems`, what is
        wrong with its images, so that the mistakes of all files can be told together.

        piece: its images, where the source can be read by one process only.

        Raises:
            UnreachableError: the source does not answer.
        """
        try:
            return self._write(share, labels, piece)
        except UnreachableError:
            raise
        except UserError as error:
            return {"problems": [dataclasses.astuple(problem) for problem in error.problems]}

    def _write(self, share: Share, labels: np.ndarray, piece: Piece | None) -> dict[str, Any]:
        if piece is None:
            assert self.source is not None
            piece = self.source.read(share.split, share.start, share.stop)
        path = self.folder / share.name
        if self.layout.shape is None:
            assert not isinstance(piece, np.ndarray)
            facts = self._write_encoded(path, piece, labels)
        else:
            facts = self._write_raw(path, self._pixels(piece), labels, share)
        file = ShardFile(share.name, len(labels), path.stat().st_size, sha256(path))
        record = {"file": dataclasses.asdict(file), "mark": share.mark, **facts}
        write_json(kept(path), record)
        return record

    def _pixels(self, piece: Piece) -> np.ndarray:
        if isinstance(piece, np.ndarray):
            return piece
        layout = self.layout
        with unnoticed():
            found = decode_images(
                len(piece), piece.__getitem__, layout.image_size, colour=layout.channels == 3, shape=layout.shape
            )
        pixels: np.ndarray = found.numpy()
        return pixels

    def _write_raw(self, path: Path, images_NCHW: np.ndarray, labels: np.ndarray, share: Share) -> dict[str, Any]:
        if self.layout.form == "arrow":
            write_raw(path, images_NCHW, labels)
        else:
            with ThreadPoolExecutor(torch.get_num_threads()) as pool:
                images = list(pool.map(png, images_NCHW.transpose(0, 2, 3, 1)))
            self._write_rows(path, images, labels, share.start)
        return {"histogram": histogram(images_NCHW).tolist(), "size": list(images_NCHW.shape[2:])}

    def _write_encoded(self, path: Path, images: Sequence[Encoded], labels: np.ndarray) -> dict[str, Any]:
        """As they are; that they decode is seen now, rather than in the middle of training."""
        whole = [dataclasses.replace(image, data=image.content) for image in images]
        channels, sizes = self.layout.channels, set()
        counts = np.zeros((channels, 256), np.int64)

        def use(position: int, image: Image.Image) -> tuple[np.ndarray, tuple[int, ...]]:
            # Of photographs not many are to be in memory at once, and no copies.
            return np.array(image.histogram(), np.int64).reshape(-1, 256), (image.height, image.width)

        def then(position: int, found: tuple[np.ndarray, tuple[int, ...]]) -> str:
            if len(found[0]) > channels:
                return "is in colour, those looked at first are grey; add --channels 3"
            counts[:] += found[0]
            sizes.add(found[1])
            return ""

        with unnoticed():
            each_image(len(whole), whole.__getitem__, use, then, colour=channels == 3)
        content = [image.content for image in whole]
        if self.layout.form == "arrow":
            write_encoded(path, content, labels)
        else:
            self._write_rows(path, content, labels, 0)
        return {"histogram": counts.tolist(), "size": list(sizes.pop()) if len(sizes) == 1 else None}

    def _write_rows(self, path: Path, images: Sequence[bytes], labels: np.ndarray, start: int) -> None:
        rows = [{"bytes": image, "path": None} for image in images]
        table = pa.table([pa.array(rows, IMAGE), pa.array(labels, pa.int64())], schema=ROWS)
        write_rows(path, table, self.classes)


KEPT = "kept"
"""Folder beside the files, until all are there."""


def kept(path: Path) -> Path:
    """Where what is to be recorded of a file is kept until all are there."""
    return path.parent / KEPT / f"{path.name}.json"


def begun_in(folder: Path) -> dict[tuple[str, str], list[Path]]:
    """Files that lie there, by split and number; of one there may be several, where sets had other numbers of files."""
    found: dict[tuple[str, str], list[Path]] = {}
    for path in sorted(folder.glob("*-*-of-*")):
        split, number = path.name.split("-")[:2]
        found.setdefault((split, number), []).append(path)
    return found


def done_before(share: Share, paths: Sequence[Path]) -> dict[str, Any] | None:
    """What was recorded of a file that is among `paths`, whole, with these rows; else None. It has its name from now on."""
    for path in paths:
        try:
            record: dict[str, Any] = json.loads(kept(path).read_text())
            file = ShardFile(**record["file"])
            same = record["mark"] == share.mark and file.rows == share.stop - share.start
            whole = same and path.stat().st_size == file.bytes and sha256(path) == file.sha256
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if whole and path.suffix == Path(share.name).suffix:
            if path.name != share.name:
                record["file"]["name"] = share.name
                write_json(kept(path.with_name(share.name)), record)
                path.rename(path.with_name(share.name))
                kept(path).unlink()
            return record
    return None


COUNTED = 1 << 18
"""Pixels that are counted at once: bincount takes eight bytes for each."""


def histogram(images_NCHW: np.ndarray) -> np.ndarray:
    """How often each value of a pixel occurs in each channel, int64 (C, 256)."""
    counts = np.zeros((images_NCHW.shape[1], 256), np.int64)
    count, _, height, width = images_NCHW.shape
    images = max(1, COUNTED // (height * width))
    rows = max(1, COUNTED // width)
    for start in range(0, count, images):
        for top in range(0, height, rows):
            part = images_NCHW[start : start + images, :, top : top + rows]
            for channel in range(len(counts)):
                counts[channel] += np.bincount(part[:, channel].reshape(-1), minlength=256)
    return counts


def statistics(counts: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel on the [0, 1] scale, from `histogram`, as `ImageSet.pixel_statistics`
    has them."""
    values = np.arange(256) / 255
    means = (counts * values).sum(axis=1) / counts.sum(axis=1)
    variances = (counts * (values - means[:, None]) ** 2).sum(axis=1) / counts.sum(axis=1)
    return tuple(round(float(m), 6) for m in means), tuple(round(max(float(v) ** 0.5, 1e-3), 6) for v in variances)
