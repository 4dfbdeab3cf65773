"""CIFAR's own files, small: pickles that torchvision opens after it has checked them.

Legend: N images, C channels, H height, W width.
"""

import hashlib
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torchvision import datasets

TEN = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

Images = tuple[torch.Tensor, torch.Tensor]
"""uint8 (N, 3, 32, 32) and labels (N)."""


def write_cifar(name: str, folder: Path, patch, train: Sequence[Images], test: Sequence[Images], classes=TEN) -> None:
    """`name` is cifar10 or cifar100; each of `train` and `test` is a file. torchvision's check of files stays: it
    is told the checksums of these."""
    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    base = folder / kind.base_folder
    base.mkdir(parents=True)
    labels_key = "labels" if name == "cifar10" else "fine_labels"
    for attribute, files in (("train_list", train), ("test_list", test)):
        sums = []
        for number, (images_NCHW, labels_N) in enumerate(files):
            rows = images_NCHW.numpy().reshape(len(labels_N), -1).astype(np.uint8)
            file = base / f"{attribute.removesuffix('_list')}_batch_{number}"
            sums.append([file.name, _write(file, {"data": rows, labels_key: labels_N.tolist()})])
        patch.setattr(kind, attribute, sums)
    meta = _write(base / kind.meta["filename"], {kind.meta["key"]: list(classes)})
    patch.setattr(kind, "meta", {**kind.meta, "md5": meta})


def _write(path: Path, content: dict) -> str:
    path.write_bytes(pickle.dumps(content))  # CIFAR's format
    return hashlib.md5(path.read_bytes()).hexdigest()
