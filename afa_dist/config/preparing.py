"""The specification of a conversion of images into the files that are trained on."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from afa_dist.config.fields import Section, setting
from afa_dist.errors import Problem

PICKLES = (".pickle", ".pkl", ".pt", ".pth")


@dataclasses.dataclass(kw_only=True, frozen=True)
class PrepareRun(Section):
    """Images from another format into Parquet (jobs/prepare_data.py)."""

    source: str = setting("", "a published set of generated images: .npz with image (uint8, N x H x W x C) and label")
    dest: str = setting("", "folder for the Parquet files; made, or empty")
    classes: tuple[str, ...] = setting((), "names of the classes, in order; by default their numbers")
    shard_size: int = setting(50_000, "images of a file", ge=1)

    def problems(self) -> Iterator[Problem]:
        for name in ("source", "dest"):
            if not getattr(self, name):
                yield Problem(name, "missing; write prepare_data.py SOURCE DEST")
        suffix = Path(self.source).suffix.lower()
        if suffix in PICKLES:
            yield Problem("source", f"{self.source}: a pickle executes code when it is opened; save it as .npz")
        elif self.source and suffix != ".npz":
            yield Problem("source", f"{self.source} is not a format that is known here; give an .npz")
        if len(set(self.classes)) < len(self.classes):
            yield Problem("classes", f"{', '.join(self.classes)} names a class twice")
