"""The published CIFAR-10-C and CIFAR-100-C (Hendrycks & Dietterich, 1903.12261), as NumPy files in a folder.

`labels.npy` and one file a corruption hold the test images five times over, in their order: strength 1 first.

Legend: N images of the test set, H height, W width, C channels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from afa_dist.data.image_set import ImageSet
from afa_dist.errors import Problem, UserError

FAMILIES = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise"),
    "blur": ("gaussian_blur", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("fog", "frost", "snow", "brightness", "spatter"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression", "saturate"),
}

STRENGTHS = 5


class CifarC:
    """A checked folder. Files are mapped, not read: of each, the images that are asked for."""

    def __init__(self, folder: Path, test: ImageSet) -> None:
        """
        Raises:
            UserError: files missing, not of these images, or not what they should be; all mistakes together.
        """
        self.folder = folder
        self.count = len(test)
        if not folder.is_dir():
            raise UserError.one("corruptions_path", f"{folder} is not a folder that can be read")
        self.families = {
            family: [name for name in names if (folder / f"{name}.npy").exists()] for family, names in FAMILIES.items()
        }
        problems = [*self._label_problems(test)]
        names = [name for members in self.families.values() for name in members]
        if not names:
            problems.append(Problem("corruptions_path", f"{folder} holds no corruption such as gaussian_noise.npy"))
        for name in names:
            problems.extend(self._file_problems(name, test))
        if problems:
            raise UserError(problems)

    def images(self, name: str, strength: int, indices_B: list[int]) -> torch.Tensor:
        """Pixels in [0, 1] (B, C, H, W) of these images of the test set."""
        mapped = _open(self.folder / f"{name}.npy")
        rows = np.asarray(indices_B) + (strength - 1) * self.count
        return torch.from_numpy(np.ascontiguousarray(mapped[rows].transpose(0, 3, 1, 2))).float() / 255

    def fingerprint(self) -> str:
        """Tells folders apart by labels, names and sizes; gigabytes of pixels are not read for it."""
        digest = hashlib.sha256((self.folder / "labels.npy").read_bytes())
        for members in self.families.values():
            for name in members:
                digest.update(f"{name} {(self.folder / f'{name}.npy').stat().st_size}".encode())
        return digest.hexdigest()

    def _label_problems(self, test: ImageSet) -> Iterator[Problem]:
        path = self.folder / "labels.npy"
        try:
            labels = _open(path)
        except (OSError, ValueError) as error:
            yield Problem("corruptions_path", f"{path} cannot be read: {_words(error)}")
            return
        expected = np.tile(test.labels_N.numpy(), STRENGTHS)
        if labels.shape != expected.shape or not np.array_equal(labels, expected):
            what = f"{path} does not hold the labels of the {len(test)} test images five times over"
            yield Problem("corruptions_path", f"{what}; it belongs to the whole test set (data.test_limit 0) of CIFAR")

    def _file_problems(self, name: str, test: ImageSet) -> Iterator[Problem]:
        path = self.folder / f"{name}.npy"
        channels, height, width = test.shape
        expected = (STRENGTHS * len(test), height, width, channels)
        try:
            mapped = _open(path)
        except (OSError, ValueError) as error:
            yield Problem("corruptions_path", f"{path} cannot be read: {_words(error)}")
            return
        if mapped.shape != expected or mapped.dtype != np.uint8:
            yield Problem("corruptions_path", f"{path} is {mapped.dtype} {mapped.shape}, expected uint8 {expected}")


def _open(path: Path) -> np.ndarray:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise ValueError("is an archive, not an array")
    return array


def _words(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
