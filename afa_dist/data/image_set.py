"""Images with labels, and how parts are chosen from them.

Legend: N images, C channels, H height, W width.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator

import numpy as np
import torch

from afa_dist.data.mapped import MappedImages
from afa_dist.data.order import LISTED, shuffled
from afa_dist.errors import Problem

PORTION = 1 << 18
"""Rows of a large set that are looked at together."""


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """Labelled images of one size.

    images_NCHW: uint8, 0 to 255, in memory or in files that are read where they are needed; or, to measure on, float32 in
    [0, 1]. labels_N: 0 to len(classes)-1, int64, or less where there are millions.
    """

    images_NCHW: torch.Tensor | MappedImages
    labels_N: torch.Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return self.images_NCHW.shape[0]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        channels, height, width = self.images_NCHW.shape[1:]
        return channels, height, width

    def to(self, device: torch.device) -> ImageSet:
        """The same images in the memory of `device`."""
        images, labels_N = self.in_memory()
        return dataclasses.replace(self, images_NCHW=images.to(device), labels_N=labels_N.to(device))

    def in_memory(self) -> tuple[torch.Tensor, torch.Tensor]:
        """All pixels and labels, read if they are not there yet."""
        images = self.images_NCHW
        return images.in_memory() if isinstance(images, MappedImages) else images, self.labels_N.long()

    def pixels(self, index_M: torch.Tensor | slice) -> torch.Tensor:
        """Chosen images with pixels in [0, 1], float32 (M, C, H, W)."""
        chosen = self.images_NCHW[index_M]
        return chosen.float() / 255 if chosen.dtype == torch.uint8 else chosen.float()

    def subset(self, indices: np.ndarray) -> ImageSet:
        """The images at some positions."""
        index = torch.from_numpy(np.asarray(indices, dtype=np.int64))
        images = self.images_NCHW
        chosen = images.subset(indices) if isinstance(images, MappedImages) else images[index]
        return dataclasses.replace(self, images_NCHW=chosen, labels_N=self.labels_N[index].long())

    def without(self, indices: np.ndarray) -> ImageSet:
        """All images but those at some positions."""
        images = self.images_NCHW
        if not isinstance(images, MappedImages):
            return self.subset(np.setdiff1d(np.arange(len(self)), indices))
        kept_N = torch.ones(len(self), dtype=torch.bool)
        kept_N[torch.from_numpy(indices)] = False
        return dataclasses.replace(self, images_NCHW=images.without(indices), labels_N=self.labels_N[kept_N])

    def fingerprint(self) -> str:
        """SHA-256 over sizes, labels and pixels: equal for equal data, wherever it was read from. Of images in files it
        is over the recorded hashes of these."""
        digest = hashlib.sha256(repr((tuple(self.images_NCHW.shape), self.classes)).encode())
        if isinstance(self.images_NCHW, MappedImages):
            digest.update(self.images_NCHW.fingerprint().encode())  # and with the files their labels
            return digest.hexdigest()
        digest.update(self.labels_N.numpy().tobytes())
        digest.update(self.images_NCHW.contiguous().numpy().data)
        return digest.hexdigest()

    def pixel_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel on the [0, 1] scale; of images in files those that are recorded, of
        all training images."""
        if isinstance(self.images_NCHW, MappedImages):
            return self.images_NCHW.statistics
        means, stds = [], []
        for channel in self.images_NCHW.transpose(0, 1):
            # From the histogram of the 256 values: exact and without a float copy of the data.
            counts = torch.bincount(channel.flatten().int(), minlength=256).double()
            values = torch.arange(256, dtype=torch.float64) / 255
            mean = (counts * values).sum() / counts.sum()
            means.append(round(mean.item(), 6))
            variance = (counts * (values - mean) ** 2).sum() / counts.sum()
            # A constant channel would divide by zero.
            stds.append(round(max(variance.item() ** 0.5, 1e-3), 6))
        return tuple(means), tuple(stds)


def choose_evenly(labels_N: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Sorted indices of `count` images, as evenly over the classes as their sizes allow, the same for one seed.

    Images are shuffled within their class; then classes take turns, so shares differ by at most one image wherever
    classes are large enough.
    """
    if len(labels_N) > LISTED:
        return _choose_from_many(labels_N, count, seed)
    random = np.random.Generator(np.random.Philox(seed))
    turn_N = np.empty(len(labels_N), dtype=np.int64)
    for label in np.unique(labels_N):
        members = np.flatnonzero(labels_N == label)
        turn_N[random.permutation(members)] = np.arange(len(members))
    order = np.lexsort((random.permutation(len(labels_N)), turn_N))
    return np.sort(order[:count])


def _choose_from_many(labels_N: np.ndarray, count: int, seed: int) -> np.ndarray:
    """The same, drawn in another way: in a random order each class is taken from until it has its share."""
    have = np.zeros(int(labels_N.max()) + 1, dtype=np.int64)
    for start in range(0, len(labels_N), PORTION):
        have += np.bincount(labels_N[start : start + PORTION], minlength=len(have))
    left = np.array(even_shares(have.tolist(), count))
    chosen: list[np.ndarray] = []
    for start in range(0, len(labels_N), PORTION):
        if not left.any():
            break
        rows = shuffled("choose", seed, 0, len(labels_N), np.arange(start, min(start + PORTION, len(labels_N))))
        rows = rows[np.argsort(labels_N[rows], kind="stable")]
        labels = labels_N[rows]
        rank = np.arange(len(labels)) - np.searchsorted(labels, labels)
        chosen.append(rows[rank < left[labels]])
        left -= np.bincount(labels[rank < left[labels]], minlength=len(left))
    return np.sort(np.concatenate([*chosen, np.empty(0, np.int64)]))


def even_shares(have: list[int], count: int) -> list[int]:
    """Shares of `count`, none more than there is, that differ by at most one where there is enough; the first get more."""
    shares = [0] * len(have)
    left = min(count, sum(have))
    while left:
        open_ones = [place for place, most in enumerate(have) if shares[place] < most]
        each = left // len(open_ones)
        for place in open_ones if each else open_ones[:left]:
            more = min(max(each, 1), have[place] - shares[place])
            shares[place] += more
            left -= more
    return shares


def choose_rows(labels_N: np.ndarray, limit: int) -> np.ndarray:
    """Sorted indices of `limit` images chosen evenly by class, the same every time; of all images if limit is 0."""
    if 0 < limit < len(labels_N):
        return choose_evenly(labels_N, limit, seed=0)
    return np.arange(len(labels_N))


def hold_out(train: ImageSet, count: int, seed: int = 0) -> tuple[ImageSet, ImageSet]:
    """Split `train` into a part to train on and `count` images to choose checkpoints by.

    count -1 means 1,024 images or 10 %, whichever is less. The split belongs to the data: it does not depend on the
    run's seed, so that runs with different seeds are chosen on the same images.
    """
    if count < 0:
        count = min(1024, len(train) // 10)
    held = choose_evenly(train.labels_N.numpy(), count, seed)
    return train.without(held), train.subset(held)


def label_problems(labels_N: np.ndarray, classes: tuple[str, ...], where: str, *, training: bool) -> Iterator[Problem]:
    """Mistakes in labels: out of range or, in a training set, a class with a single image."""
    if len(labels_N) == 0:
        yield Problem(where, "holds no images")
        return
    outside = np.flatnonzero((labels_N < 0) | (labels_N >= len(classes)))
    if len(outside):
        row = outside[0]
        yield Problem(
            where,
            f"label {labels_N[row]} in row {row} is out of range; the file names {len(classes)} classes, "
            f"so labels run from 0 to {len(classes) - 1} ({len(outside)} rows are wrong)",
        )
        return
    if not training:
        return
    for label, count in zip(*np.unique(labels_N, return_counts=True), strict=True):
        if count == 1:
            yield Problem(
                where,
                f"class {classes[label]!r} has one image; contrastive training needs at least 2 of each class "
                "that occurs: add images or leave the class out",
            )
