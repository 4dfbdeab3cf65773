"""Encoded images (PNG, JPEG and whatever else Pillow reads) to one array of pixels.

Legend: N images, C channels, H height, W width.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image

from afa_dist.data.stack import Stack
from afa_dist.errors import Problem, UserError

T = TypeVar("T")

CHUNK = 128
"""Images decoded between two reports of progress; at most so many wait in memory to be copied."""

MISTAKES = 10
"""Unreadable images that are named before decoding stops."""

_progress: ContextVar[Callable[[int, int], None] | None] = ContextVar("decoding_progress", default=None)


@dataclasses.dataclass(frozen=True)
class Encoded:
    """An image that is still to be decoded: its bytes or its path, the file it is in, and its place in there.

    place is empty for a file of its own, else words such as `row 7`.
    """

    data: bytes | Path
    file: str
    place: str = ""

    def problem(self, what: str) -> Problem:
        return Problem(self.file, f"{self.place} {what}".lstrip())

    @property
    def content(self) -> bytes:
        """Its bytes."""
        return self.data if isinstance(self.data, bytes) else self.data.read_bytes()

    @property
    def size_in_bytes(self) -> int:
        return len(self.data) if isinstance(self.data, bytes) else self.data.stat().st_size


class _UnusableError(ValueError):
    """An image that decodes, to pixels that are of no use here."""


@contextlib.contextmanager
def progress_to(show: Callable[[int, int], None]) -> Iterator[None]:
    """Inside, `show(done, total)` is called every `CHUNK` images while a split is decoded, from the thread that loads it.

    A hook rather than an argument: images are read several calls below whoever has something to show.
    """
    token = _progress.set(show)
    try:
        yield
    finally:
        _progress.reset(token)


def unnoticed() -> contextlib.AbstractContextManager[None]:
    """Inside, nobody hears of images that are decoded: they are part of work that shows its own progress."""
    return progress_to(lambda done, total: None)


def decode_images(
    count: int,
    encoded: Callable[[int], Encoded],
    image_size: int = 0,
    *,
    colour: bool = False,
    shape: tuple[int, int, int] | None = None,
) -> torch.Tensor:
    """Decode images 0 to `count`-1 to uint8 (N, C, H, W), in as many threads as torch computes with.

    image_size: side of the square they are brought to (see `to_square`); 0 = as stored, when all must have one size.
    colour: always 3 channels; else 1 if all images are grey, so that a single grey photograph among coloured ones,
    even as the first, changes nothing. What counts as grey, and how other kinds are converted: see `read_pixels`.
    shape: C, H, W that all must have, where that is known from images read before.

    Raises:
        UserError: images that do not decode (up to `MISTAKES` of them, each with its file), sizes that differ, or more
            pixels than memory holds.
    """
    assert count > 0
    stack = Stack(count, shape)

    def use(position: int, image: Image.Image) -> np.ndarray | str:
        pixels_CHW = pixels_of(to_square(image, image_size) if image_size else image)
        return pixels_CHW if shape is None else stack.put(position, pixels_CHW)

    def then(position: int, found: np.ndarray | str) -> str:
        # Where the first image says what size all must have, order matters.
        return found if isinstance(found, str) else stack.put(position, found)

    each_image(count, encoded, use, then, colour=colour)
    assert stack.pixels_NCHW is not None
    return torch.from_numpy(stack.pixels_NCHW)


def each_image(
    count: int,
    encoded: Callable[[int], Encoded],
    use: Callable[[int, Image.Image], T],
    then: Callable[[int, T], str] = lambda position, found: "",
    *,
    colour: bool = False,
) -> None:
    """Open images 0 to `count`-1 and use each, in as many threads as torch computes with.

    use(position, image): called in a thread of the pool; the image is of mode L or RGB (see `read_pixels`).
    then(position, result): called with what that gave, in the order of positions, by the caller's thread; words that it
    returns, of an image that does not fit the others, end the work.

    Raises:
        UserError: images that do not decode (up to `MISTAKES` of them, each with its file), or one that does not fit.
    """
    unreadable: list[Problem] = []

    def work(position: int) -> tuple[Encoded, T | Problem]:
        source = encoded(position)
        return source, _used(source, lambda image: use(position, image), colour)

    # Pillow lets other threads run while it decodes. torch's setting is what scaling.threads limits.
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for start in range(0, count, CHUNK):
            positions = range(start, min(start + CHUNK, count))
            for position, (source, found) in zip(positions, pool.map(work, positions), strict=True):
                if isinstance(found, Problem):
                    unreadable.append(found)
                elif misfit := then(position, found):
                    raise UserError([*_by_file(unreadable), source.problem(misfit)])
            if len(unreadable) >= MISTAKES:
                stopped = Problem(
                    "data.path", f"reading stopped after {len(unreadable)} unreadable images; there may be more"
                )
                raise UserError([*_by_file(unreadable), stopped])
            if show := _progress.get():
                show(positions.stop, count)
    if unreadable:
        raise UserError(_by_file(unreadable))


def read_all(sources: Sequence[Encoded], *, colour: bool = False) -> list[np.ndarray]:
    """Decode images of any sizes, each to uint8 (C, H, W) as `read_pixels` does, in as many threads as torch computes with.

    Raises:
        UserError: images that do not decode, each with its file.
    """
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return _whole(pool.map(lambda source: _used(source, pixels_of, colour), sources))


def sizes_of(sources: Iterable[Encoded], *, colour: bool = False) -> list[tuple[int, int, int]]:
    """C, H, W of images as `read_all` gives them, decoded one after the other, for they may be large."""
    return _whole(_used(source, size_of, colour) for source in sources)


def _whole(found: Iterable[T | Problem]) -> list[T]:
    results = list(found)
    if problems := [one for one in results if isinstance(one, Problem)]:
        raise UserError(_by_file(problems)[:MISTAKES])
    return [one for one in results if not isinstance(one, Problem)]


def read_pixels(data: bytes | Path, image_size: int = 0, *, colour: bool = False) -> np.ndarray:
    """Decode one image to uint8 (C, H, W).

    Grey images (black and white, 8 or 16 bits, with or without alpha) have one channel unless `colour`; all others are
    converted to RGB: palettes are looked up, CMYK and the like computed by Pillow. Alpha is dropped, not blended. Of 16
    bits the upper 8 are kept. The first frame of an animation counts. Rotation noted in a camera's EXIF is not applied.

    Raises:
        OSError, SyntaxError, ValueError, DecompressionBombError: whatever Pillow says of a damaged or oversized file;
            ValueError also for pixels that are neither of 8 nor of 16 bits.
    """
    image = open_image(data, colour=colour)
    return pixels_of(to_square(image, image_size) if image_size else image)


def open_image(data: bytes | Path, *, colour: bool = False) -> Image.Image:
    """Decode one image as `read_pixels` does, to an image of mode L or RGB."""
    with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as opened:
        opened.load()
        image: Image.Image = _eight_bits(opened)
    mode = "L" if image.mode in ("1", "L", "LA") and not colour else "RGB"
    return image if image.mode == mode else image.convert(mode)


def size_of(image: Image.Image) -> tuple[int, int, int]:
    """C, H, W of an image of mode L or RGB."""
    return (1 if image.mode == "L" else 3, image.height, image.width)


def pixels_of(image: Image.Image) -> np.ndarray:
    """The pixels of an image of mode L or RGB, uint8 (C, H, W)."""
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _eight_bits(image: Image.Image) -> Image.Image:
    # Pillow's own conversion of 16 bits clips at 255 in some versions and shifts in others.
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise _UnusableError("holds pixels of 32 bits; save it with 8 bits a channel")
        return Image.fromarray((values >> 8).astype(np.uint8))
    if image.mode == "F":
        raise _UnusableError("holds floating-point pixels; save it with 8 bits a channel")
    return image


def to_square(image: Image.Image, side: int) -> Image.Image:
    """Resize so that the shorter side has `side` pixels and cut the centre square, in one antialiased bilinear pass.

    An image whose shorter side already is `side` is only cut, its pixels unchanged.
    """
    short = min(image.size)
    left, top = (image.width - short) // 2, (image.height - short) // 2
    return image.resize((side, side), Image.Resampling.BILINEAR, box=(left, top, left + short, top + short))


def _used(source: Encoded, use: Callable[[Image.Image], T], colour: bool) -> T | Problem:
    try:
        return use(open_image(source.data, colour=colour))
    except _UnusableError as error:
        return source.problem(str(error))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            return source.problem(f"cannot be read ({error.strerror})")
        return source.problem(f"holds no readable image ({source.size_in_bytes} bytes); replace or remove it")


def _by_file(problems: list[Problem]) -> list[Problem]:
    """One problem a file: its first, with the number of others."""
    files: dict[str, list[Problem]] = {}
    for problem in problems:
        files.setdefault(problem.where, []).append(problem)
    return [
        Problem(where, found[0].what + (f" ({len(found) - 1} more in this file)" if len(found) > 1 else ""))
        for where, found in files.items()
    ]
