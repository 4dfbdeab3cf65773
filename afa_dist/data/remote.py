"""Files at addresses (s3://, gs://, hdfs://, hf:// and whatever else pyarrow knows), read in spite of servers that now and
then do not answer."""

from __future__ import annotations

import dataclasses
import errno
import functools
import hashlib
import io
import re
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
from pyarrow import fs

from afa_dist.address import below, without_options
from afa_dist.distributed import beat
from afa_dist.errors import UnreachableError, UserError

T = TypeVar("T")

CHUNK_BYTES = 8 << 20

PATIENCE, FIRST_PATIENCE = 300.0, 15.0
"""Seconds without any answer before reading is given up: once there was one, and before. Clients of object stores try again
by themselves before they say so, some for 25 s."""

LONGEST_PAUSE = 15.0

_ANSWERED: set[str] = set()
"""Servers that have answered this process, or another one of which it knows."""

WRONG = (UserError, pa.ArrowInvalid, ImportError, TypeError, AttributeError, NotImplementedError, AssertionError)
"""What was asked for is wrong, or the program is."""

HOPELESS = ("ACCESS_DENIED", "NO_SUCH_BUCKET", "INVALID_ACCESS_KEY", "INVALID_CLIENT_TOKEN", "SIGNATURE_DOES_NOT_MATCH")
"""Answers that trying again does not change, in pyarrow's words."""


class RemoteFolder:
    """A folder at an address. Methods try again, and say so, before they raise.

    Raises:
        UserError: pyarrow knows no such address; `option` named it.
    """

    def __init__(self, address: str, option: str) -> None:
        self.address, self.option = address, option
        self.place = without_options(address).rstrip("/")
        self.give_up = threading.Event()
        """Set by whoever does not want to wait any more: what is being tried fails now."""
        try:
            self.filesystem, self.root = self._tried("", lambda: fs.FileSystem.from_uri(address), answers=False)
        except (ValueError, pa.ArrowException, ImportError) as error:
            raise UserError.one(option, f"{self.place} is no address that can be read here ({_words(error)})") from error

    def __str__(self) -> str:
        return self.place

    @property
    def server(self) -> str:
        """Scheme and bucket or host, with options."""
        scheme, _, rest = self.address.partition("://")
        return f"{scheme}://{rest.partition('/')[0]}?{self.address.partition('?')[2]}"

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteFolder, (self.address, self.option)

    def note_answer(self) -> None:
        """Its server answers, or has answered another process: it is waited for from now on."""
        _ANSWERED.add(self.server)

    def sizes(self) -> dict[str, int]:
        """Bytes of each file directly in it; empty where there is none."""
        selector = fs.FileSelector(self.root, allow_not_found=True)
        found = self._tried("", lambda: self.filesystem.get_file_info(selector))
        return {info.base_name: info.size for info in found if info.type == fs.FileType.File}

    def within(self, name: str) -> RemoteFolder:
        """A folder in it."""
        return RemoteFolder(below(self.address, name), self.option)

    def read(self, name: str) -> bytes:
        """All of a small file.

        Raises:
            FileNotFoundError: there is none.
            UserError: the place does not answer.
        """

        def read() -> bytes:
            with self.filesystem.open_input_stream(f"{self.root}/{name}") as stream:
                return bytes(stream.read())

        return self._tried(name, read)

    def copy(self, name: str, target: Path, tick: Callable[[int], None]) -> tuple[int, str]:
        """Copy a file; returns its size and SHA-256. tick: called with the bytes of each part.

        Raises:
            FileNotFoundError: there is none.
            UserError: the place does not answer.
        """
        digest = hashlib.sha256()
        with SteadyFile(self, name) as source, target.open("wb") as file:
            while part := source.read(CHUNK_BYTES):
                if self.give_up.is_set():
                    raise UnreachableError.one(self.option, f"{self.place}/{name}: given up")
                file.write(part)
                digest.update(part)
                tick(len(part))
            return file.tell(), digest.hexdigest()

    def _tried(self, name: str, work: Callable[[], T], *, answers: bool = True) -> T:
        """What `work` gives, tried again while the place does not answer. answers: whether its success is an answer."""
        began, pause = time.monotonic(), 0.5
        while True:
            try:
                found = work()
                if answers:
                    self.note_answer()
                return found
            except FileNotFoundError:
                self.note_answer()
                raise
            except WRONG:
                raise
            except Exception as error:  # a file system that is written in Python raises whatever its client does
                where = f"{self.place}/{name}".rstrip("/")
                words = _words(error)
                if any(word in str(error) for word in HOPELESS) or isinstance(error, PermissionError):
                    what = f"{where} may not be read, or is not there: {words}"
                    raise UnreachableError.one(self.option, what) from error
                patience = PATIENCE if self.server in _ANSWERED else FIRST_PATIENCE
                if self.give_up.is_set() or time.monotonic() + pause > began + patience:
                    what = f"{where} does not answer (tried for {time.monotonic() - began:.0f} s): {words}"
                    hint = "start again when it does; what has been fetched stays"
                    raise UnreachableError.one(self.option, f"{what}; {hint}") from error
                print(f"{where} does not answer ({words}); trying again in {pause:.1f} s", file=sys.stderr, flush=True)
                beat()
                self.give_up.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)


@dataclasses.dataclass(frozen=True)
class RemoteFile:
    """A file at an address, where otherwise a path would stand."""

    folder: RemoteFolder
    name: str
    size: int

    def __str__(self) -> str:
        return f"{self.folder.place}/{self.name}"

    def open(self) -> SteadyFile:
        return SteadyFile(self.folder, self.name)


class SteadyFile(io.RawIOBase):
    """A file at an address that goes on where it was when a connection drops."""

    def __init__(self, folder: RemoteFolder, name: str) -> None:
        super().__init__()
        self._folder, self.name, self._at = folder, name, 0
        self._file: Any = None
        self.size: int = folder._tried(name, lambda: self._once(lambda file: file.size()))

    def __reduce__(self) -> tuple[Any, ...]:
        return SteadyFile, (self._folder, self.name)

    def _once(self, work: Callable[[Any], T]) -> T:
        """What `work` does with the open file; a failure may have left that of no use (GCS closes it), so it goes."""
        try:
            if self._file is None:
                self._file = self._folder.filesystem.open_input_file(f"{self._folder.root}/{self.name}")
            return work(self._file)
        except BaseException:
            self._file = None
            raise

    def _read_once(self, size: int, offset: int) -> bytes:
        def work(file: Any) -> bytes:
            found = bytes(file.read_at(size, offset))
            if len(found) != size:
                raise OSError(errno.EIO, f"{len(found)} bytes came instead of {size}")
            return found

        return self._once(work)

    def read(self, size: int | None = -1, /) -> bytes:
        left = self.size - self._at
        size = left if size is None or size < 0 else min(size, left)
        if size <= 0:
            return b""
        found = self._folder._tried(self.name, functools.partial(self._read_once, size, self._at))
        self._at += size
        beat()
        return found

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self._file = None
        super().close()


def _words(error: BaseException) -> str:
    """The reason in what pyarrow says."""
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return re.sub(r"^.*?(?=AWS Error)|[;.]? Details?:.*$", "", first).strip()
