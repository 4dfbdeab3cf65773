"""Data sets by name: training, held-out and test images, checked."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from afa_dist.config import DataConfig
from afa_dist.data.digits_file import digits
from afa_dist.data.folders import load_tiny_imagenet, load_tree
from afa_dist.data.generated import load_generated
from afa_dist.data.image_set import ImageSet, choose_evenly, choose_rows, hold_out
from afa_dist.data.parquet import load_parquet
from afa_dist.data.prepared import load_prepared
from afa_dist.data.torchvision_files import load_cifar, load_svhn
from afa_dist.errors import Problem, UnreachableError, UserError

DIGITS_TEST = 360
"""Test images of the digits, a fifth of the 1,797."""


@dataclasses.dataclass(frozen=True)
class DataSplits:
    """train: what weights are fitted to. held_out: training images that choose checkpoints. test: for evaluation.
    generated: images of a model to mix into training, or None."""

    train: ImageSet
    held_out: ImageSet
    test: ImageSet
    generated: ImageSet | None = None

    def parts(self) -> dict[str, ImageSet]:
        """All there are, by name."""
        return {field.name: part for field in dataclasses.fields(self) if (part := getattr(self, field.name)) is not None}

    def fingerprint(self) -> str:
        """SHA-256 over all parts."""
        if self.generated is None:
            return self.real_fingerprint()
        return hashlib.sha256(f"{self.real_fingerprint()}{self.generated.fingerprint()}".encode()).hexdigest()

    def real_fingerprint(self) -> str:
        """SHA-256 over the real images."""
        parts = [part.fingerprint() for part in (self.train, self.held_out, self.test)]
        return hashlib.sha256("".join(parts).encode()).hexdigest()


def load_splits(config: DataConfig) -> DataSplits:
    """Load what `config` names.

    Raises:
        UserError: files missing or damaged, or data that cannot be trained on; all mistakes of both splits together.
    """
    load = _SOURCES[config.name]
    parts: list[ImageSet] = []
    problems: list[Problem] = []
    for split, limit in (("train", config.train_limit), ("test", config.test_limit)):
        try:
            parts.append(load(config, split, limit))
        except UnreachableError:  # nor would the other one be
            raise
        except UserError as error:
            problems.extend(error.problems)
    if problems:
        raise UserError(dict.fromkeys(problems))
    train, test = parts
    if train.shape != test.shape or train.classes != test.classes:
        what = f"{train.shape} with {len(train.classes)} classes and {test.shape} with {len(test.classes)}"
        if len(train.classes) == len(test.classes):
            other = [pair for pair in zip(train.classes, test.classes, strict=True) if pair[0] != pair[1]]
            what += "".join(f"; {ours} is {theirs} in the test images" for ours, theirs in other[:1])
        hint = "; set data.image_size, and all are brought to one size" if train.shape[1:] != test.shape[1:] else ""
        raise UserError.one(config.path or config.name, f"training and test images differ in size or classes: {what}{hint}")
    if config.held_out >= len(train):
        what = f"{config.held_out} leaves none of the {len(train)} training images to train on; hold out fewer (0 = none)"
        raise UserError.one("data.held_out", what)
    fitted, held_out = hold_out(train, config.held_out)
    generated = load_generated(config, fitted) if config.generated is not None else None
    return DataSplits(fitted, held_out, test, generated)


def load_whole(config: DataConfig, split: str) -> ImageSet:
    """One split of what `config` names, all of it.

    Raises:
        UserError: as `load_splits`.
    """
    return _SOURCES[config.name](config, split, 0)


def load_part(config: DataConfig, part: Literal["test", "held_out"]) -> ImageSet:
    """Load the test images alone, or the training images that are held out."""
    if part == "held_out":
        return load_splits(dataclasses.replace(config, generated=None)).held_out
    return _SOURCES[config.name](config, "test", config.test_limit)


def _digits(config: DataConfig, split: str, limit: int) -> ImageSet:
    """scikit-learn's 8x8 scans (0 to 16, stored as 0 to 255), split by a fixed draw, even over the classes."""
    scans, labels = digits()
    images = torch.from_numpy(np.rint(scans * (255 / 16)).astype(np.uint8))[:, None]
    everything = ImageSet(images, torch.from_numpy(labels), tuple("0123456789"))
    test = choose_evenly(labels, DIGITS_TEST, seed=0)
    rows = test if split == "test" else np.setdiff1d(np.arange(len(everything)), test)
    chosen = everything.subset(rows)
    return chosen.subset(choose_rows(chosen.labels_N.numpy(), limit))


def _parquet(config: DataConfig, split: str, limit: int) -> ImageSet:
    return load_parquet(_folder(config), split, limit, config.image_size)


def _prepared(config: DataConfig, split: str, limit: int) -> ImageSet:
    return load_prepared(config, split, limit)


def _cifar(config: DataConfig, split: str, limit: int) -> ImageSet:
    return load_cifar(_folder(config), config.name, split, limit)


def _svhn(config: DataConfig, split: str, limit: int) -> ImageSet:
    return load_svhn(_folder(config), split, limit)


def _tree(config: DataConfig, split: str, limit: int) -> ImageSet:
    return load_tree(_folder(config), split, limit, config.image_size)


def _tiny_imagenet(config: DataConfig, split: str, limit: int) -> ImageSet:
    return load_tiny_imagenet(_folder(config), split, limit, config.image_size)


def _folder(config: DataConfig) -> Path:
    assert config.path is not None
    folder = Path(config.path).expanduser()
    if not folder.is_dir():
        raise UserError.one("data.path", f"{folder} is not a folder that can be read; data.name {config.name} needs one")
    return folder


_SOURCES: dict[str, Callable[[DataConfig, str, int], ImageSet]] = {
    "digits": _digits,
    "prepared": _prepared,
    "parquet": _parquet,
    "cifar10": _cifar,
    "cifar100": _cifar,
    "svhn": _svhn,
    "folder": _tree,
    "tiny-imagenet": _tiny_imagenet,
}
