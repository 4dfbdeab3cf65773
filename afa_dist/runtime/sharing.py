"""One copy of the images on a node: the driver puts them into Ray's object store, where workers map them, read-only.

So images are decoded once however many workers there are, only the driver needs to see their files, and all workers
have the same ones.
"""

from __future__ import annotations

import dataclasses
import socket
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
import ray
import torch

from afa_dist.config import DataConfig, TrainingRun
from afa_dist.data.catalogue import DataSplits, load_splits
from afa_dist.data.image_set import ImageSet
from afa_dist.data.mapped import MappedImages
from afa_dist.errors import UserError

STORE_SHARE = 0.5
"""Part of the smallest node's object store that images may take; beyond it Ray would begin to spill."""


@dataclasses.dataclass(frozen=True)
class _Arrays:
    """What Ray maps instead of copying: NumPy arrays."""

    images_NCHW: np.ndarray
    labels_N: np.ndarray
    classes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class SharedImages:
    """Names and references of image sets in the object store. Small enough to be sent anywhere."""

    parts: Mapping[str, ray.ObjectRef[Any]]

    def get(self) -> dict[str, ImageSet]:
        """The image sets. Their tensors must not be written to: other processes see the same memory."""
        return {name: _image_set(ray.get(part)) for name, part in self.parts.items()}


def share(sets: Mapping[str, ImageSet]) -> SharedImages | None:
    """Put `sets` into the object store of the connected cluster; None where they are too large for that, or in files that
    are mapped, which workers of a node share anyway."""
    if any(isinstance(part.images_NCHW, MappedImages) for part in sets.values()):
        return None
    needed = sum(part.images_NCHW.nbytes + part.labels_N.nbytes for part in sets.values())
    if needed > STORE_SHARE * min(_stores(ray.nodes()), default=0):
        return None
    return SharedImages({name: ray.put(_arrays(part)) for name, part in sets.items()})


Data = TypeVar("Data", ImageSet, DataSplits)


def same_images(found: Data, fingerprint: str, config: DataConfig) -> Data:
    """`found`, which this node read by itself, if it is what the driver read.

    Raises:
        UserError: it is not.
    """
    if found.fingerprint() != fingerprint:
        what = f"{config.path or config.name} on {socket.gethostname()} holds other images than on the driver"
        raise UserError.one("data.path", f"{what}; use the same files on all nodes, or a folder that they share")
    return found


def splits_of(run: TrainingRun, shared: SharedImages | None, fingerprint: str) -> DataSplits:
    """The driver's images: from the object store or, where they are too large for it, read here and compared.

    Raises:
        UserError: they are not the driver's.
    """
    if shared is not None:
        return DataSplits(**shared.get())
    return same_images(load_splits(run.data), fingerprint, run.data)


def _stores(nodes: Iterable[Mapping[str, Any]]) -> Iterable[float]:
    """Bytes of the object store of each node that lives."""
    return (node["Resources"].get("object_store_memory", 0) for node in nodes if node["Alive"])


def _arrays(images: ImageSet) -> _Arrays:
    pixels_NCHW, labels_N = images.in_memory()
    return _Arrays(pixels_NCHW.contiguous().numpy(), labels_N.numpy(), images.classes)


def _image_set(arrays: _Arrays) -> ImageSet:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable")  # nobody writes to images
        return ImageSet(torch.from_numpy(arrays.images_NCHW), torch.from_numpy(arrays.labels_N), arrays.classes)
