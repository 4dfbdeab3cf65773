"""The section that says on which images a run works."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Literal

from afa_dist.address import fault_of, is_address
from afa_dist.config.cache import cache_gib_setting, cache_problems, cache_setting
from afa_dist.config.fields import Section, setting
from afa_dist.errors import Problem

RESIZED = ("folder", "tiny-imagenet", "parquet", "prepared")
"""Data sets whose images may have many sizes, and be brought to one."""


@dataclasses.dataclass(kw_only=True, frozen=True)
class DataConfig(Section):
    """Which images."""

    name: Literal["digits", "prepared", "parquet", "cifar10", "cifar100", "svhn", "folder", "tiny-imagenet"] = setting(
        "digits",
        "data set: digits (scikit-learn's scans, in the package) or, from path, prepared (by prepare_data.py: for sets of "
        "any size), parquet (Hugging Face image layout), "
        "cifar10 or cifar100 (torchvision's files), svhn (its *_32x32.mat), folder (train/CLASS/*.png and the like), "
        "tiny-imagenet (its own layout)",
    )
    path: str | None = setting(
        None,
        "folder with the files; docs/data.md shows what is expected in it; not for digits. A prepared set may lie at an "
        "address (s3://bucket/set and the like)",
    )
    cache: str | None = cache_setting()
    cache_gib: float = cache_gib_setting()
    image_size: int = setting(
        0,
        "resize so that the shorter side has this many pixels, then cut the centre square; 0 = as stored, when all images "
        "must have one size; for folder, tiny-imagenet and parquet",
        ge=0,
        le=4096,
    )
    train_limit: int = setting(0, "use only this many training images, chosen evenly by class; 0 = all", ge=0)
    test_limit: int = setting(0, "use only this many test images, chosen evenly by class; 0 = all", ge=0)
    held_out: int = setting(
        -1, "training images set aside for choosing checkpoints; -1 = 1,024 or 10 %, whichever is less", ge=-1
    )
    crop_padding: int = setting(0, "augmentation: random crop after padding by this many pixels; 0 = no crop", ge=0, le=64)
    flip: bool = setting(False, "augmentation: mirror half of the images left to right")
    resized_crop: float = setting(
        0.0,
        "augmentation: a random window with at least this share of the image's area, brought to the size of all (0.08 is "
        "usual for ImageNet); 0 = none",
        ge=0,
        le=1,
    )
    color_jitter: tuple[float, ...] = setting(
        (),
        "augmentation: greatest changes of brightness, contrast, saturation and, up to 0.5, hue; such as 0.4,0.4,0.4,0.1",
    )
    auto_augment: Literal["none", "imagenet", "cifar10", "svhn", "randaugment", "trivialaugment"] = setting(
        "none",
        "augmentation: AutoAugment (1805.09501) with the policy found for imagenet, cifar10 or svhn; RandAugment "
        "(1909.13719); TrivialAugment (2103.10158)",
    )
    randaugment_ops: int = setting(2, "changes that RandAugment makes to each image", ge=1)
    randaugment_magnitude: int = setting(9, "how strong RandAugment's changes are, of 0 to 30", ge=0, le=30)
    generated: str | None = setting(
        None,
        "generated images to mix into training: run directory of generate.py sample, a prepared set (which may lie at an "
        "address), or a folder with train*.parquet; "
        "none = real ones alone",
    )
    generated_fraction: float = setting(
        0.7,
        "share of generated images in every batch (2302.04638: 0.7); an epoch is one pass over the real ones, so it has "
        "1 / (1 - share) times as many images",
        gt=0,
        le=1,
    )
    generated_limit: int = setting(0, "use only the first so many generated images; 0 = all", ge=0)

    def problems(self) -> Iterator[Problem]:
        if self.name == "digits" and self.path is not None:
            yield Problem("path", "digits come with scikit-learn and take no path; leave it out or choose another name")
        if self.name != "digits" and self.path is None:
            yield Problem("path", f"missing; {self.name} needs the folder that holds its files")
        if self.path is not None and is_address(self.path):
            if self.name != "prepared":
                what = f"an address is not allowed with {self.name}, which needs a folder of this machine"
                yield Problem("path", f"{what}; prepare_data.py makes a set that may lie at an address")
            elif fault := fault_of(self.path):
                yield Problem("path", fault)
        if self.generated is not None and (fault := fault_of(self.generated)):
            yield Problem("generated", fault)
        yield from cache_problems(self.cache)
        yield from self._augmentation_problems()
        if self.image_size and self.name not in RESIZED:
            what = f"{self.image_size} is not allowed with {self.name}, whose images come in one size; leave it at 0"
            yield Problem("image_size", f"{what} (folder, tiny-imagenet and parquet take it)")

    def _augmentation_problems(self) -> Iterator[Problem]:
        if self.resized_crop and self.crop_padding:
            what = (
                f"{self.crop_padding} is not allowed with resized_crop, which moves the image already; set one of them to 0"
            )
            yield Problem("crop_padding", what)
        jitter = self.color_jitter
        if len(jitter) > 4 or any(not 0 <= value < math.inf for value in jitter) or any(hue > 0.5 for hue in jitter[3:]):
            shown = ",".join(f"{value:g}" for value in jitter)
            what = f"{shown} is not allowed; it must be up to 4 numbers of at least 0, the last (hue) at most 0.5"
            yield Problem("color_jitter", what)
        if self.auto_augment != "randaugment" and (self.randaugment_ops, self.randaugment_magnitude) != (2, 9):
            what = f"is for auto_augment randaugment, not {self.auto_augment}; leave it out"
            option = "randaugment_ops" if self.randaugment_ops != 2 else "randaugment_magnitude"
            yield Problem(option, what)
