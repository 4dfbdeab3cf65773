"""The specification of a conversion of images into the files that are trained on."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from afa_dist.address import fault_of, is_address
from afa_dist.config.cache import cache_gib_setting, cache_problems, cache_setting
from afa_dist.config.fields import Section, setting
from afa_dist.errors import Problem

PICKLES = (".pickle", ".pkl", ".pt", ".pth")


Kind = Literal[
    "auto",
    "digits",
    "cifar10",
    "cifar100",
    "svhn",
    "folder",
    "tiny-imagenet",
    "parquet",
    "webdataset",
    "npz",
    "prepared",
]


@dataclasses.dataclass(kw_only=True, frozen=True)
class LookRun(Section):
    """A look at a set of images (jobs/prepare_data.py inspect)."""

    source: str = setting("", "what to look at: a prepared set, or whatever can be prepared; digits needs none")
    kind: Kind = setting("auto", "format of it, as for preparing; auto = by what lies there")
    classes: tuple[str, ...] = setting((), "names of the classes, in order, where it has none")
    out: str = setting("", "folder for report, contact sheet and record; none = inspection-NAME here")
    threads: int = setting(0, "threads that decode; 0 = the cores there are", ge=0)
    cache: str | None = cache_setting()
    cache_gib: float = cache_gib_setting()

    def problems(self) -> Iterator[Problem]:
        yield from cache_problems(self.cache)
        if is_address(self.out):
            yield Problem("out", f"{self.out} is an address; give a folder of this machine")
        if not self.source and self.kind != "digits":
            yield Problem("source", "missing; write prepare_data.py inspect PATH")
        if fault := fault_of(self.source):
            yield Problem("source", fault)


@dataclasses.dataclass(kw_only=True, frozen=True)
class PrepareRun(Section):
    """Images from any format into Arrow or Parquet files (jobs/prepare_data.py)."""

    source: str = setting(
        "",
        "what to read: a folder or file in one of the formats of `kind`, or an address (s3://, hf://); digits needs none",
    )
    dest: str = setting("", "folder for the result; made, or empty")
    kind: Kind = setting(
        "auto",
        "format of the source; auto = by what lies there. folder: train/CLASS/*.jpg and test/ or val/ likewise (ImageNet "
        "too); parquet: Hugging Face image layout; webdataset: tars; npz: published generated sets, image and label; "
        "prepared: by this job",
    )
    form: Literal["arrow", "parquet"] = setting(
        "arrow", "arrow: mapped into memory when training, for sets of any size; parquet: for other programs as well"
    )
    storage: Literal["auto", "raw", "encoded"] = setting(
        "auto", "raw: pixels; encoded: JPEG, PNG as they come; auto = raw where all have one size of up to 96 x 96 pixels"
    )
    image_size: int = setting(
        0, "resize so that the shorter side has this many pixels, then cut the centre square; stored raw", ge=0, le=4096
    )
    channels: Literal[0, 1, 3] = setting(
        0, "1: grey, 3: colour (grey images are spread over all); 0 = colour if any of the images that are looked at is"
    )
    classes: tuple[str, ...] = setting((), "names of the classes, in order, where the source has none")
    shard_size: int = setting(0, "images of a file; 0 = 10,000 small ones, fewer of large ones", ge=0)
    licence: str = setting("", "licence of the images, to be kept with them: its name or text, or @FILE")
    workers: int = setting(0, "0 = in this process, all cores; N = N workers of Ray, all of which see both folders", ge=0)
    threads: int = setting(0, "threads a worker; 0 = the cores there are, shared among the workers", ge=0)
    cache: str | None = cache_setting()
    cache_gib: float = cache_gib_setting()

    def problems(self) -> Iterator[Problem]:
        yield from cache_problems(self.cache)
        if is_address(self.dest):
            yield Problem(
                "dest", f"{self.dest} is an address; give a folder of this machine, and copy it there when it is done"
            )
        for name in ("source", "dest"):
            if not getattr(self, name) and not (name == "source" and self.kind == "digits"):
                yield Problem(name, "missing; write prepare_data.py SOURCE DEST")
        if fault := fault_of(self.source):
            yield Problem("source", fault)
        suffix = Path(self.source).suffix.lower()
        if suffix in PICKLES:
            yield Problem("source", f"{self.source}: a pickle executes code when it is opened; save it as .npz")
        if len(set(self.classes)) < len(self.classes):
            yield Problem("classes", f"{', '.join(self.classes)} names a class twice")
        if self.image_size and self.storage == "encoded":
            what = f"{self.image_size} makes pixels of the images, so they cannot stay encoded; leave out storage encoded"
            yield Problem("image_size", f"{what}, or image_size, and set data.image_size when training")
