"""Published sets of generated images, .npz with `image` and `label`, read in portions and without unpickling anything.

Legend: N images, H height, W width, C channels.
"""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from afa_dist.errors import Problem, UserError

IMAGES, LABELS = "image", "label"

CHANNELS = (1, 3)

UNREADABLE = (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What reading a damaged file may raise."""


class NpzImages:
    """The images of one file, checked as far as can be without reading them.

    labels_N: int64. shape: H, W, C.
    """

    def __init__(self, path: Path) -> None:
        """Raises:
        UserError: everything that is wrong with the file, by name.
        """
        self.path = path
        with self.named_failures(), zipfile.ZipFile(path) as archive:
            members = {name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")}
            if missing := [name for name in (IMAGES, LABELS) if name not in members]:
                there = ", ".join(sorted(members)) or "nothing"
                what = f"has no {' and no '.join(missing)}; it holds {there}, and a set needs {IMAGES} and {LABELS}"
                raise UserError.one(str(path), what)
            headers = {}
            for name in (IMAGES, LABELS):
                with archive.open(f"{name}.npy") as file:
                    headers[name] = _header(file)
            problems = list(_problems(str(path), headers))
            if problems:
                raise UserError(problems)
            with archive.open(f"{LABELS}.npy") as file:
                _header(file)
                shape, _, dtype = headers[LABELS]
                self.labels_N = np.frombuffer(_exactly(file, shape[0] * dtype.itemsize), dtype).astype(np.int64)
        self.count, *size = headers[IMAGES][0]
        self.shape: tuple[int, ...] = tuple(size)

    def stream(self) -> NpzStream:
        """The images in order, from the first on."""
        return NpzStream(self)

    @contextlib.contextmanager
    def named_failures(self) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except FileNotFoundError as error:
            raise UserError.one(str(self.path), "does not exist") from error
        except UNREADABLE as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError.one(str(self.path), f"is not a whole .npz file ({reason}); fetch it again") from error


class NpzStream:
    """Reads images one after another; the file stays open until all are read."""

    def __init__(self, images: NpzImages) -> None:
        self.images = images
        self._bytes_each = int(np.prod(images.shape))
        self._open: tuple[zipfile.ZipFile, IO[bytes]] | None = None

    def read(self, count: int) -> np.ndarray:
        """The next so many, uint8 (count, H, W, C).

        Raises:
            UserError: the file is cut off or damaged.
        """
        with self.images.named_failures():
            if self._open is None:
                archive = zipfile.ZipFile(self.images.path)
                self._open = (archive, archive.open(f"{IMAGES}.npy"))
                _header(self._open[1])
            data = _exactly(self._open[1], count * self._bytes_each)
        return np.frombuffer(data, np.uint8).reshape(count, *self.images.shape)

    def finish(self) -> None:
        """All has been read: now the checksum of the file is known, and compared.

        Raises:
            UserError: it is another one, or there is more.
        """
        assert self._open is not None
        with self.images.named_failures():
            if self._open[1].read(1):
                raise ValueError(f"{IMAGES} is longer than its header says")
        self._open[0].close()


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether columns come first, and type of an array, whose data come next in `file`."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)


def _problems(path: str, headers: dict[str, tuple[tuple[int, ...], bool, np.dtype[Any]]]) -> Iterator[Problem]:
    shape, by_columns, dtype = headers[IMAGES]
    shown = " x ".join(map(str, shape))
    if dtype != np.uint8:
        yield Problem(path, f"{IMAGES} is {_type_words(dtype)}, not uint8 (0 to 255)")
    if len(shape) != 4 or shape[-1] not in CHANNELS:
        order = "; it seems to be images x channels x height x width" if len(shape) == 4 and shape[1] in CHANNELS else ""
        yield Problem(path, f"{IMAGES} is {shown or 'one number'}, not images x height x width x channels (1 or 3){order}")
    elif not all(shape):
        yield Problem(path, f"{IMAGES} is {shown}, which holds no pixels")
    if by_columns:
        yield Problem(path, f"{IMAGES} is stored column by column (Fortran order); save it with numpy.ascontiguousarray")
    other, _, dtype = headers[LABELS]
    if dtype.kind not in "iu":
        yield Problem(path, f"{LABELS} is {_type_words(dtype)}, not whole numbers")
    if len(other) != 1:
        yield Problem(path, f"{LABELS} is {' x '.join(map(str, other)) or 'one number'}, not one number an image")
    elif shape and other[0] != shape[0]:
        yield Problem(path, f"has {shape[0]} images and {other[0]} labels")


def _type_words(dtype: np.dtype[Any]) -> str:
    return "an array of pickled objects, which are never loaded" if dtype.hasobject else str(dtype)


def _exactly(file: IO[bytes], count: int) -> bytes:
    data = file.read(count)
    if len(data) < count:
        raise EOFError("it ends too early")
    return data
