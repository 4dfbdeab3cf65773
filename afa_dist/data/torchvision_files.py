"""CIFAR and SVHN as their authors publish them and torchvision keeps them on disk; nothing is downloaded.

Legend: N images, C channels, H height, W width.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from afa_dist.data.image_set import ImageSet, choose_rows, label_problems
from afa_dist.errors import Problem, UserError

DIGITS = tuple("0123456789")


def load_cifar(folder: Path, name: str, split: str, limit: int = 0) -> ImageSet:
    """`name` is cifar10 or cifar100: 32x32 in colour.

    The format is a pickle, whose content torchvision checks against its published MD5 sums before it opens it.

    Raises:
        UserError: files missing or altered.
    """
    from torchvision import datasets

    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    try:
        raw = kind(folder, train=split == "train", download=False)
    except RuntimeError as error:
        where = f"{folder} holds no whole {kind.base_folder} folder, as torchvision unpacks it"
        raise UserError.one("data.path", where) from error
    images_NHWC = torch.from_numpy(raw.data)
    labels_N = np.array(raw.targets, dtype=np.int64)
    return _checked(images_NHWC.permute(0, 3, 1, 2), labels_N, tuple(raw.classes), folder, split, limit)


def load_svhn(folder: Path, split: str, limit: int = 0) -> ImageSet:
    """Street-view house numbers, cropped digits of 32x32 in colour: train_32x32.mat or test_32x32.mat.

    Read here and not by torchvision, which takes the published bytes only and does not say what is wrong with others.
    The format is MATLAB's, which can hold arrays but no code.

    Raises:
        UserError: the file is missing, not a MATLAB file, or without images X (32, 32, 3, N) and labels y (N) from 1 to
            10, where 10 stands for the digit 0.
    """
    path = folder / f"{split}_32x32.mat"
    if not path.is_file():
        raise UserError.one(
            "data.path", f"{folder} holds no {path.name}, as published with SVHN (format 2, cropped digits)"
        )
    content = _read_matlab(path)
    problems = list(_svhn_problems(path, content))
    if problems:
        raise UserError(problems)
    labels_N = content["y"].reshape(-1).astype(np.int64) % 10
    images = torch.from_numpy(content["X"].transpose(3, 2, 0, 1))
    return _checked(images, labels_N, DIGITS, path, split, limit)


def _read_matlab(path: Path) -> dict[str, Any]:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        return loadmat(path, variable_names=["X", "y"])
    except NotImplementedError as error:  # MATLAB 7.3 writes HDF5
        raise UserError.one(str(path), "is a MATLAB 7.3 file; save it in format 7 or fetch the published one") from error
    except (MatReadError, OSError, ValueError, TypeError, IndexError, zlib.error) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError.one(str(path), f"is not a whole MATLAB file ({reason}); fetch it again") from error


def _svhn_problems(path: Path, content: dict[str, Any]) -> list[Problem]:
    images, labels = content.get("X"), content.get("y")
    if images is None or labels is None:
        missing = " and ".join(name for name in ("X", "y") if content.get(name) is None)
        return [Problem(str(path), f"has no variable {missing}; expected are images X and labels y; fetch it again")]
    if images.ndim != 4 or images.shape[:3] != (32, 32, 3) or images.dtype != np.uint8:
        what = f"images X are {images.dtype} {images.shape}, expected uint8 (32, 32, 3, N)"
        return [Problem(str(path), f"{what}; use the file of cropped digits (format 2)")]
    count = images.shape[3]
    if labels.size != count or labels.dtype.kind not in "uif":
        return [
            Problem(
                str(path), f"labels y are {labels.dtype} {labels.shape}, expected one number for each of {count} images"
            )
        ]
    flat_N = labels.reshape(-1)
    wrong = np.flatnonzero(~np.isin(flat_N, np.arange(1, 11)))
    if len(wrong):
        what = f"label {flat_N[wrong[0]]} of image {wrong[0]} is out of range; labels run from 1 to 10, 10 is the digit 0"
        return [Problem(str(path), f"{what} ({len(wrong)} are wrong)")]
    return []


def _checked(
    images_NCHW: torch.Tensor, labels_N: np.ndarray, classes: tuple[str, ...], where: Path, split: str, limit: int
) -> ImageSet:
    problems = list(label_problems(labels_N, classes, str(where), training=split == "train"))
    if problems:
        raise UserError(problems)
    rows = torch.from_numpy(choose_rows(labels_N, limit))
    return ImageSet(images_NCHW[rows].contiguous(), torch.from_numpy(labels_N)[rows], classes)
