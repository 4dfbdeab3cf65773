"""Parquet files in the Hugging Face image layout as a source, read a portion at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from afa_dist.data.parquet import remote_split_files, split_files
from afa_dist.data.remote import RemoteFile, RemoteFolder
from afa_dist.data.sources.base import Piece, Source
from afa_dist.data.stored import StoredImages
from afa_dist.errors import Problem, UserError

NAMES = {"train": ("train",), "test": ("test", "validation", "val")}
"""What the names of a split's files begin with."""


class Tables(Source):
    """`train*.parquet` and `test*.parquet` of a folder."""

    def __init__(self, folder: Path | RemoteFolder, classes: tuple[str, ...]) -> None:
        self._stored: dict[str, StoredImages] = {}
        problems: list[Problem] = []
        for split in ("train", "test"):
            name = next((name for name in NAMES[split] if _files(folder, name)), "")
            if split == "test" and not name:
                continue
            try:
                self._stored[split] = StoredImages(folder, split=name or split, option="source", intended=False)
            except UserError as error:
                problems += error.problems
        if problems:
            raise UserError(dict.fromkeys(problems))
        named = [stored.classes for stored in self._stored.values() if stored.classes]
        most = max(int(stored.labels_N.max()) for stored in self._stored.values())
        self.classes = classes or (named[0] if named else tuple(str(number) for number in range(most + 1)))
        if any(names != named[0] for names in named):
            raise UserError.one("source", f"{folder} names other classes for test than for train images")
        if most >= len(self.classes):
            raise UserError.one("source", f"{folder} has label {most}; allowed: 0 to {len(self.classes) - 1}")
        self.labels = {split: stored.labels_N for split, stored in self._stored.items()}
        marks = {split: stored.fingerprint for split, stored in self._stored.items()}
        name = folder.place.rpartition("/")[2] if isinstance(folder, RemoteFolder) else folder.name
        self.identity = {"kind": "parquet", "name": name, "files": marks}

    def read(self, split: str, start: int, stop: int) -> Piece:
        return self._stored[split].encoded(np.arange(start, stop))


def _files(folder: Path | RemoteFolder, name: str) -> list[Path] | list[RemoteFile]:
    return remote_split_files(folder, name) if isinstance(folder, RemoteFolder) else split_files(folder, name)
