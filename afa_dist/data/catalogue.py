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
from afa_dist.data.image_set import ImageSet, choose_evenly, hold_out, label_problems
from afa_dist.data.parquet import load_parquet
from afa_dist.errors import Problem, UserError

DIGITS_TEST = 360
"""Test images of the digits, a fifth of the 1,797."""


@dataclasses.dataclass(frozen=True)
class DataSplits:
    """train: what weights are fitted to. held_out: training images that choose checkpoints. test: for evaluation."""

    train: ImageSet
    held_out: ImageSet
    test: ImageSet

    def fingerprint(self) -> str:
        """SHA-256 over all three parts."""
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
        except UserError as error:
            problems.extend(error.problems)
    if problems:
        raise UserError(dict.fromkeys(problems))
    train, test = parts
    if train.shape != test.shape or train.classes != test.classes:
        raise UserError.one(
            config.path or config.name,
            f"training and test images differ in size or classes: {train.shape} with {len(train.classes)} classes "
            f"and {test.shape} with {len(test.classes)}",
        )
    if config.held_out >= len(train):
        raise UserError.one("data.held_out", f"{config.held_out} leaves none of the {len(train)} training images")
    fitted, held_out = hold_out(train, config.held_out)
    return DataSplits(fitted, held_out, test)


def load_part(config: DataConfig, part: Literal["test", "held_out"]) -> ImageSet:
    """Load the test images alone, or the training images that are held out."""
    if part == "held_out":
        return load_splits(config).held_out
    return _SOURCES[config.name](config, "test", config.test_limit)


def _digits(config: DataConfig, split: str, limit: int) -> ImageSet:
    """scikit-learn's 8x8 scans (0 to 16, stored as 0 to 255), split by a fixed draw, even over the classes."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    images = torch.from_numpy(np.rint(raw.images * (255 / 16)).astype(np.uint8))[:, None]
    everything = ImageSet(images, torch.from_numpy(raw.target.astype(np.int64)), tuple("0123456789"))
    test = choose_evenly(raw.target, DIGITS_TEST, seed=0)
    rows = test if split == "test" else np.setdiff1d(np.arange(len(everything)), test)
    return _limited(everything.subset(rows), limit)


def _parquet(config: DataConfig, split: str, limit: int) -> ImageSet:
    return load_parquet(_folder(config), split, limit)


def _torchvision_cifar(config: DataConfig, split: str, limit: int) -> ImageSet:
    """CIFAR as torchvision keeps it on disk; nothing is downloaded.

    The format is a pickle, whose content torchvision checks against its published MD5 sums before it opens it.
    """
    from torchvision import datasets

    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[config.name]
    folder = _folder(config)
    try:
        raw = kind(folder, train=split == "train", download=False)
    except RuntimeError as error:
        where = f"{folder} holds no whole {kind.base_folder} folder, as torchvision unpacks it"
        raise UserError.one("data.path", where) from error
    images = torch.from_numpy(raw.data).permute(0, 3, 1, 2).contiguous()
    labels = torch.tensor(raw.targets, dtype=torch.int64)
    problems = list(label_problems(labels.numpy(), tuple(raw.classes), str(folder), training=split == "train"))
    if problems:
        raise UserError(problems)
    return _limited(ImageSet(images, labels, tuple(raw.classes)), limit)


def _folder(config: DataConfig) -> Path:
    assert config.path is not None
    folder = Path(config.path).expanduser()
    if not folder.is_dir():
        raise UserError.one(
            "data.path", f"{folder} is not a folder that can be read; give the one with the {config.name} files"
        )
    return folder


def _limited(images: ImageSet, limit: int) -> ImageSet:
    if limit and limit < len(images):
        return images.subset(choose_evenly(images.labels_N.numpy(), limit, seed=0))
    return images


_SOURCES: dict[str, Callable[[DataConfig, str, int], ImageSet]] = {
    "digits": _digits,
    "parquet": _parquet,
    "cifar10": _torchvision_cifar,
    "cifar100": _torchvision_cifar,
}
