"""Sources whose pixels are there as numbers: torchvision's files, scikit-learn's digits, and .npz."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from afa_dist.config import DataConfig
from afa_dist.data.catalogue import load_whole
from afa_dist.data.npz import NpzImages
from afa_dist.data.sources.base import Piece, Source
from afa_dist.errors import Problem, UserError, collected, named_by
from afa_dist.files import sha256

SPLITS = ("train", "test")


class InMemory(Source):
    """CIFAR, SVHN and the digits: as `data.name` reads them, all at once."""

    def __init__(self, name: str, path: Path | None) -> None:
        config = DataConfig(name=name, path=str(path) if path is not None else None)  # type: ignore[arg-type]  # checked
        problems: list[Problem] = []
        self._images: dict[str, np.ndarray] = {}
        self.labels: dict[str, np.ndarray] = {}
        digest = hashlib.sha256()
        for split in SPLITS:
            with collected(problems), named_by("source"):
                part = load_whole(config, split)
                images_NCHW, labels_N = part.in_memory()
                self.classes, self.pixels = part.classes, part.shape
                self._images[split] = images_NCHW.numpy()
                self.labels[split] = labels_N.numpy().astype(np.int32)
                digest.update(part.fingerprint().encode())
        if problems:
            raise UserError(problems)
        self.identity = {"kind": name, "sha256": digest.hexdigest()}

    def read(self, split: str, start: int, stop: int) -> Piece:
        return self._images[split][start:stop]


class Npz(Source):
    """A published set of generated images: training images, in one stream."""

    in_order = True

    def __init__(self, path: Path, classes: tuple[str, ...]) -> None:
        self._images = NpzImages(path)
        self.classes = class_names(self._images, classes)
        self.labels = {"train": self._images.labels_N.astype(np.int32)}
        self.identity = {"kind": "npz", "name": path.name, "sha256": sha256(path)}
        self._stream = self._images.stream()
        self._at = 0
        height, width, channels = self._images.shape
        self.pixels = (channels, height, width)

    def read(self, split: str, start: int, stop: int) -> Piece:
        if start < self._at:
            self._stream, self._at = self._images.stream(), 0
        while self._at < start:
            skipped = min(1000, start - self._at)
            self._stream.read(skipped)
            self._at += skipped
        pixels_NHWC = self._stream.read(stop - start)
        self._at = stop
        if stop == self._images.count:
            self._stream.finish()
        return np.ascontiguousarray(pixels_NHWC.transpose(0, 3, 1, 2))


def class_names(images: NpzImages, given: tuple[str, ...]) -> tuple[str, ...]:
    """Names of the classes of a set: as given, else their numbers.

    Raises:
        UserError: labels are out of range.
    """
    low, high = int(images.labels_N.min(initial=0)), int(images.labels_N.max(initial=0))
    most = len(given) or 1_000_000
    if low < 0 or high >= most:
        row = int(np.flatnonzero((images.labels_N < 0) | (images.labels_N >= most))[0])
        allowed = f"0 to {most - 1} ({most} classes)"
        what = f"label {images.labels_N[row]} of image {row} is out of range; allowed: {allowed}"
        raise UserError.one(str(images.path), what)
    return given or tuple(str(number) for number in range(high + 1))
