"""The folder that copies of sets lie in: who reads which, and room for new ones.

CACHE/NAME-ID/      a set
    .in-use         locked (shared) by every process that reads the set; its time says when it was last opened
    .room           bytes that are promised to the set
    .server         where it comes from; is there when all that was asked for once is
CACHE/.lock         locked while room is made
CACHE/.gone-...     a set that is being removed
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from afa_dist.distributed import beat
from afa_dist.errors import UnreachableError

IN_USE, ROOM, SERVER, LOCK, GONE = ".in-use", ".room", ".server", ".lock", ".gone-"


class Cache:
    """folder: where sets go. most_bytes: that all of them may take. section: of the options `cache` and `cache_gib`, which
    say so."""

    def __init__(self, folder: Path, most_bytes: int, section: str = "data.") -> None:
        self.folder, self.most_bytes = folder, most_bytes
        self.option, self.size_option = f"{section}cache", f"{section}cache_gib"

    def knows(self, server: str) -> bool:
        """Whether a set has been brought here from a server."""
        return any(_text(path) == server for path in self.folder.glob(f"*/{SERVER}"))

    def hold(self, place: Path) -> IO[str]:
        """Make the folder of a set, and keep others from removing it while the result is open."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder / LOCK):
            place.mkdir(exist_ok=True)
            in_use = (place / IN_USE).open("a")
            fcntl.flock(in_use, fcntl.LOCK_SH)
            os.utime(place / IN_USE)
        return in_use

    def make_room(self, place: Path, needed: int, name: str) -> None:
        """Promise `needed` more bytes to the set at `place`; sets that nobody reads go, the one longest unused first, but
        none does if that is not enough.

        Raises:
            UnreachableError: there is not so much.
        """
        with locked(self.folder / LOCK):
            for left in self.folder.glob(f"{GONE}*"):  # of a process that was killed
                shutil.rmtree(left, ignore_errors=True)
            others = {
                folder: _promised(folder)
                for folder in self.folder.iterdir()
                if folder != place and (folder / IN_USE).exists()
            }
            free = shutil.disk_usage(self.folder).free
            wanted, total = bytes_in(place) + needed, sum(others.values())
            going: list[Path] = []
            for folder in sorted(others, key=lambda folder: (folder / IN_USE).stat().st_mtime):
                if wanted + total <= self.most_bytes and needed <= free:
                    break
                if not _is_used(folder):
                    going.append(folder)
                    total -= others[folder]
                    free += bytes_in(folder)
            if wanted + total > self.most_bytes:
                used = f", besides {gib(total)} of sets that are in use" if total else ""
                what = f"{gib(self.most_bytes)} is too little: {name} needs {gib(wanted)}{used}"
                hint = "allow more, or copy the set to a disk and give its folder"
                raise UnreachableError.one(self.size_option, f"{what}; {hint}")
            if needed > free:
                what = f"the disk of {self.folder} has {gib(free)} for it, {name} needs {gib(needed)} more"
                raise UnreachableError.one(self.option, f"{what}; make room, or choose a folder on another disk")
            for folder in going:
                aside = self.folder / f"{GONE}{secrets.token_hex(4)}"
                folder.rename(aside)  # so that a kill leaves no set without half of its files
                shutil.rmtree(aside, ignore_errors=True)
            (place / ROOM).write_text(str(wanted))


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
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


def bytes_in(folder: Path) -> int:
    """Of all files; others may be removing some."""
    total = 0
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def _promised(folder: Path) -> int:
    """Bytes of a set: what is there, or what was promised to those who read it."""
    with contextlib.suppress(ValueError):
        return max(bytes_in(folder), int(_text(folder / ROOM)))
    return bytes_in(folder)


def _text(path: Path) -> str:
    """What a file says; nothing where there is none, or no longer."""
    try:
        return path.read_text()
    except OSError:
        return ""


def _is_used(folder: Path) -> bool:
    """Whether a process reads a set."""
    with (folder / IN_USE).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def gib(size: int) -> str:
    """Bytes as people write them."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
