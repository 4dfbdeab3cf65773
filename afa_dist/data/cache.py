"""Copies of prepared sets that lie at addresses, on a disk of this machine.

CACHE/NAME-ID/               a set; ID is of its record, so a set that was made anew is another one
    train-00000-....arrow    its files, each there when it is whole and its SHA-256 is the recorded one
    .in-use                  locked (shared) by every process that reads the set; its time says when it was last opened
    .fetching                locked by the process that fetches, while others wait
    .room                    bytes that are promised to the set
CACHE/.lock                  locked while room is made

All processes of a machine share a cache. Sets that nobody reads make room for new ones, the one longest unused first.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

from afa_dist.data.open_shards import ShardFile
from afa_dist.data.remote import RemoteFolder
from afa_dist.distributed import beat
from afa_dist.errors import UserError
from afa_dist.files import sync

AT_ONCE = 8
"""Files that are fetched together."""

TELL_SECONDS = 10.0
"""Between two words on how far a copy is."""

IN_USE, FETCHING, ROOM, LOCK = ".in-use", ".fetching", ".room", ".lock"


class CachedSet:
    """The copy of one set.

    folder: where its files go. most_bytes: that all sets in the cache may take.
    """

    def __init__(self, remote: RemoteFolder, cache: Path, identity: str, most_bytes: int) -> None:
        """Raises:
        UserError: the cache cannot be written.
        """
        self.remote, self.cache, self.most_bytes = remote, cache, most_bytes
        name = remote.place.rsplit("/", 1)[-1] or "set"
        self.folder = cache / f"{name}-{identity[:16]}"
        self._in_use: IO[str] | None = None
        self._hold()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_in_use": None}

    def _hold(self) -> None:
        """Keep others from removing the set, as long as this process lives."""
        if self._in_use is None:
            try:
                self.cache.mkdir(parents=True, exist_ok=True)
                with _locked(self.cache / LOCK):
                    self.folder.mkdir(exist_ok=True)
                    self._in_use = (self.folder / IN_USE).open("a")
                    fcntl.flock(self._in_use, fcntl.LOCK_SH)
                    os.utime(self.folder / IN_USE)
            except OSError as error:
                what = f"{self.cache} cannot be written ({error.strerror}); choose another folder"
                raise UserError.one("data.cache", what) from error

    def has(self, file: ShardFile) -> bool:
        """Whether a file is here, whole."""
        path = self.folder / file.name
        try:
            return path.stat().st_size == file.bytes
        except FileNotFoundError:
            return False

    def forget(self, file: ShardFile) -> None:
        """Remove the copy of a file that is damaged."""
        (self.folder / file.name).unlink(missing_ok=True)

    def fetch(self, files: Sequence[ShardFile]) -> None:
        """Bring here what is missing of `files`; another process may do it meanwhile.

        Raises:
            UserError: there is no room, the place does not answer, or what lies there is not what was written.
        """
        self._hold()
        if all(self.has(file) for file in files):
            return
        with _locked(self.folder / FETCHING):
            missing = [file for file in files if not self.has(file)]
            for left in self.folder.glob(".*.tmp"):  # of a process that was killed
                left.unlink(missing_ok=True)
            if missing:
                self._make_room(sum(file.bytes for file in missing))
                self._fetch_all(missing)

    def _fetch_all(self, missing: Sequence[ShardFile]) -> None:
        told = _Told(self.remote.place, sum(file.bytes for file in missing), self.folder)
        pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="afa-dist-fetch")
        try:
            for future in [pool.submit(self._fetch_one, file, told) for file in missing]:
                future.result()
        except BaseException:
            self.remote.give_up.set()  # those under way need not be waited for
            raise
        finally:
            pool.shutdown(cancel_futures=True)
            self.remote.give_up.clear()
        told.finish()

    def _fetch_one(self, file: ShardFile, told: _Told) -> None:
        aside = self.folder / f".{file.name}.{secrets.token_hex(4)}.tmp"
        try:
            for _ in range(2):  # bytes may change on the way
                if self.remote.copy(file.name, aside, told.more) == (file.bytes, file.sha256):
                    sync(aside)
                    aside.replace(self.folder / file.name)
                    return
                told.more(-file.bytes)
            what = f"{self.remote.place}/{file.name} is not what its record says; copy or prepare it again"
            raise UserError.one(self.remote.option, what)
        except FileNotFoundError as error:
            raise UserError.one(self.remote.option, f"{self.remote.place}/{file.name} is gone; copy it again") from error
        except OSError as error:
            what = f"{self.folder} cannot be written ({error.strerror}); make room, or choose another folder"
            raise UserError.one("data.cache", what) from error
        finally:
            aside.unlink(missing_ok=True)

    def _make_room(self, needed: int) -> None:
        """Promise `needed` more bytes to this set; sets that nobody reads go, the one longest unused first.

        Raises:
            UserError: there is not so much.
        """
        with _locked(self.cache / LOCK):
            sets = {folder: _promised(folder) for folder in self.cache.iterdir() if (folder / IN_USE).exists()}
            wanted = _bytes_in(self.folder) + needed
            others = sum(size for folder, size in sets.items() if folder != self.folder)
            for folder in sorted(sets, key=lambda folder: (folder / IN_USE).stat().st_mtime):
                if wanted + others <= self.most_bytes:
                    break
                if folder != self.folder and _removed_unless_used(folder):
                    others -= sets[folder]
            if wanted + others > self.most_bytes:
                used = f", besides {_gib(others)} of sets that are in use" if others else ""
                what = f"{_gib(self.most_bytes)} is too little: {self.remote.place} needs {_gib(wanted)}{used}"
                raise UserError.one("data.cache_gib", f"{what}; allow more, or copy the set to a disk and give its folder")
            free = shutil.disk_usage(self.cache).free
            if needed > free:
                what = f"the disk of {self.cache} has {_gib(free)} left, {self.remote.place} needs {_gib(needed)} more"
                raise UserError.one("data.cache", f"{what}; make room, or choose a folder on another disk")
            (self.folder / ROOM).write_text(str(wanted))


class InCache:
    """Finds files of a set in its copy; the first one that is missing brings all of them.

    files: those that will be asked for.
    """

    def __init__(self, copy: CachedSet, files: Sequence[ShardFile]) -> None:
        self.copy, self.files = copy, files

    def __call__(self, file: ShardFile) -> Path:
        if not self.copy.has(file):
            self.copy.fetch(self.files)
        return self.copy.folder / file.name

    def forget(self, file: ShardFile) -> bool:
        """Remove a file that is damaged; whether it can be had again."""
        self.copy.forget(file)
        return True


class _Told:
    """Says how far a copy is, now and then."""

    def __init__(self, place: str, total: int, folder: Path) -> None:
        self.place, self.total, self.folder = place, total, folder
        self.done, self.began = 0, time.monotonic()
        self._last, self._lock = self.began, threading.Lock()

    def more(self, part: int) -> None:
        with self._lock:
            self.done += part
            now = time.monotonic()
            if now - self._last < TELL_SECONDS:
                return
            self._last = now
        rate = self.done / (now - self.began)
        left = f", {(self.total - self.done) / rate:.0f} s left" if rate else ""
        self._say(f"{_gib(self.done)} of {_gib(self.total)} of {self.place} are here{left}")

    def finish(self) -> None:
        if self._last != self.began:
            self._say(f"{self.place} is here, in {self.folder}")

    @staticmethod
    def _say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock file; waiting for it is no standstill."""
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                beat()
                time.sleep(0.2)
        yield


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.suffix != ".tmp")


def _promised(folder: Path) -> int:
    """Bytes of a set: what is there, or what was promised to those who read it."""
    with contextlib.suppress(OSError, ValueError):
        return max(_bytes_in(folder), int((folder / ROOM).read_text()))
    return _bytes_in(folder)


def _removed_unless_used(folder: Path) -> bool:
    """Remove a set that no process reads; whether it was."""
    with (folder / IN_USE).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        shutil.rmtree(folder)
    return True


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
