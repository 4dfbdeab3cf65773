"""Sources that are folders of image files: a folder for each class, ImageNet's and Tiny-ImageNet's layout."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from afa_dist.data.decode import Encoded
from afa_dist.data.folders import Listing, list_tiny_imagenet, list_tree
from afa_dist.data.sources.base import Piece, Source
from afa_dist.errors import Problem, UserError, collected, named_by

ListSplit = Callable[[Path, str], Listing]

KINDS: dict[str, ListSplit] = {"folder": list_tree, "tiny-imagenet": list_tiny_imagenet}


class Tree(Source):
    """Files in folders, in the order of class and name."""

    in_parts = True

    def __init__(self, kind: str, folder: Path) -> None:
        problems: list[Problem] = []
        self._listings: dict[str, Listing] = {}
        for split in ("train", "test"):
            with collected(problems), named_by("source"):
                self._listings[split] = KINDS[kind](folder, split)
        if problems:
            raise UserError(dict.fromkeys(problems))
        self.classes = self._listings["train"].classes
        self.labels = {split: listing.labels_N.astype(np.int32) for split, listing in self._listings.items()}
        self._skipped = len(str(folder)) + 1
        self._sizes = {split: [path.stat().st_size for path in found.files] for split, found in self._listings.items()}
        marks = [self.mark(split, 0, len(labels)) for split, labels in self.labels.items()]
        digest = hashlib.sha256(repr((self.classes, marks)).encode()).hexdigest()
        self.identity = {"kind": kind, "name": folder.name, "files": digest}

    def mark(self, split: str, start: int, stop: int) -> str:
        listing, digest = self._listings[split], hashlib.sha256()
        labels = listing.labels_N[start:stop].tolist()
        for path, size, label in zip(listing.files[start:stop], self._sizes[split][start:stop], labels, strict=True):
            digest.update(f"{str(path)[self._skipped :]} {size} {label}\n".encode())
        return digest.hexdigest()

    def read(self, split: str, start: int, stop: int) -> Piece:
        return [Encoded(path, str(path)) for path in self._listings[split].files[start:stop]]
