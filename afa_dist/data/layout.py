"""How the images of a source are stored: as pixels or as they come, and in files of how many."""

from __future__ import annotations

import dataclasses

import numpy as np

from afa_dist.config.preparing import PrepareRun
from afa_dist.data.decode import MISTAKES, Encoded, sizes_of
from afa_dist.data.sources.base import Source
from afa_dist.errors import Problem, UnreachableError, UserError, collected

LOOKED_AT = 64
"""Images whose sizes and colours decide how all are stored."""

RAW_SIDE = 96
"""Pixels of the longer side up to which images are stored raw."""

MOST_ROWS, MOST_BYTES, MOST_ENCODED = 10_000, 32 << 20, 1000
"""Of a file: rows, bytes of images (of encoded ones as those looked at have them), and encoded images; so several files are
in memory at once."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """How images are stored. shape: C, H, W of raw ones; None where they are encoded. image_size: as in `PrepareRun`."""

    form: str
    storage: str
    channels: int
    shape: tuple[int, int, int] | None
    image_size: int
    shard_size: int


def layout_of(source: Source, run: PrepareRun) -> Layout:
    """How the images of `source` are stored, by the options and by some of the images.

    Raises:
        UserError: some cannot be read, or not be stored so.
    """
    if source.pixels is not None:
        return _layout(run, _of_pixels(source.pixels, run))
    count = len(source.labels["train"])
    rows = np.unique(np.linspace(0, count - 1, min(LOOKED_AT, count)).round().astype(int)).tolist()
    shapes: list[tuple[int, ...]] = []
    total_bytes = 0
    problems: list[Problem] = []
    for row in rows:
        with collected(problems, but=UnreachableError):  # which would be waited for again with each row
            some = [one for one in source.read("train", row, row + 1) if isinstance(one, Encoded)]
            total_bytes += sum(one.size_in_bytes for one in some)
            shapes += [(found[0], *([run.image_size] * 2 if run.image_size else found[1:])) for found in sizes_of(some)]
    if problems:
        raise UserError(problems[:MISTAKES])
    if run.channels == 1 and any(shape[0] > 1 for shape in shapes):
        raise UserError.one("channels", "1 is for grey images, and of these some are in colour; leave it out")
    channels: int = run.channels or max(shape[0] for shape in shapes)
    sizes = sorted({shape[1:] for shape in shapes})
    small = len(sizes) == 1 and max(sizes[0]) <= RAW_SIDE
    if run.storage == "encoded" or (run.storage == "auto" and not run.image_size and not small):
        return _layout(run, None, channels, total_bytes // len(shapes))
    if len(sizes) > 1:
        shown = ", ".join(f"{width}x{height}" for height, width in sizes[:3])
        raise UserError.one("storage", f"raw needs images of one size, these have {shown}, ...; add --image_size")
    height, width = sizes[0]
    return _layout(run, (channels, height, width))


def _of_pixels(pixels: tuple[int, int, int], run: PrepareRun) -> tuple[int, int, int]:
    """The shape of images that come as pixels; some options are for others."""
    wrong = {
        "storage": run.storage == "encoded",
        "image_size": run.image_size != 0,
        "channels": run.channels not in (0, pixels[0]),
    }
    what = f"is not for this source, which holds pixels, {' x '.join(map(str, pixels))}; leave it out, or take the images"
    what += " that these were made from"
    if problems := [Problem(option, f"{getattr(run, option)} {what}") for option in wrong if wrong[option]]:
        raise UserError(problems)
    return pixels


def _layout(run: PrepareRun, shape: tuple[int, int, int] | None, channels: int = 0, mean_bytes: int = MOST_BYTES) -> Layout:
    of_each = mean_bytes if shape is None else int(np.prod(shape))
    most = min(MOST_ENCODED if shape is None else MOST_ROWS, max(1, MOST_BYTES // max(1, of_each)))
    return Layout(
        form=run.form,
        storage="encoded" if shape is None else "raw",
        channels=channels or (shape[0] if shape else 0),
        shape=shape,
        image_size=run.image_size,
        shard_size=run.shard_size or most,
    )
