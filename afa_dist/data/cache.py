"""Copies of prepared sets that lie at addresses, on a disk of this machine.

CACHE/NAME-ID/               a set; ID is of its record, so a set that was made anew is another one
    train-00000-....arrow    its files, each there when it is whole and its SHA-256 is the recorded one
    .fetching                locked by the process that fetches or repairs, while others wait

All processes of a machine share a cache; see `cache_room.py` for who may remove what.
"""

from __future__ import annotations

import contextlib
import queue
import secrets
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from afa_dist.data.cache_room import IN_USE, SERVER, Cache, gib, locked
from afa_dist.data.open_shards import ShardFile
from afa_dist.data.remote import RemoteFolder
from afa_dist.errors import UnreachableError, UserError
from afa_dist.files import sha256, sync

AT_ONCE = 8
"""Files that are fetched together."""

GIVE_UP_SECONDS = 10.0
"""How long files under way are waited for when a copy fails: they end with the part that they are reading."""

TELL_SECONDS = 10.0
"""Between two words on how far a copy is."""

FETCHING = ".fetching"


class CachedSet:
    """The copy of one set. folder: where its files go."""

    def __init__(self, remote: RemoteFolder, cache: Cache, identity: str) -> None:
        """Raises:
        UnreachableError: the cache cannot be written.
        """
        self.remote, self.cache = remote, cache
        self.folder = cache.folder / f"{remote.place.rsplit('/', 1)[-1] or 'set'}-{identity[:16]}"
        self._in_use: IO[str] | None = None
        self.hold()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_in_use": None}

    def hold(self) -> None:
        """Keep others from removing the set, as long as this process lives."""
        if self._in_use is None or not (self.folder / IN_USE).exists():
            with self._writable():
                self._in_use = self.cache.hold(self.folder)

    def has(self, file: ShardFile) -> bool:
        """Whether a file is here, whole."""
        try:
            return (self.folder / file.name).stat().st_size == file.bytes
        except FileNotFoundError:
            return False

    def forget(self, file: ShardFile) -> None:
        """Remove the copy of a file if it is damaged; another process may have had it again by now."""
        self.hold()
        path = self.folder / file.name
        with self._writable(), locked(self.folder / FETCHING):
            if path.exists() and sha256(path) != file.sha256:
                path.unlink()

    def fetch(self, files: Sequence[ShardFile]) -> None:
        """Bring here what is missing of `files`; another process may do it meanwhile.

        Raises:
            UnreachableError: there is no room, or the place does not answer.
            UserError: what lies there is not what was written.
        """
        self.hold()
        if all(self.has(file) for file in files):
            return
        with self._writable(), locked(self.folder / FETCHING):
            missing = [file for file in files if not self.has(file)]
            for left in self.folder.glob(".*.tmp"):  # of a process that was killed
                left.unlink(missing_ok=True)
            if missing:
                self.cache.make_room(self.folder, sum(file.bytes for file in missing), self.remote.place)
                self._fetch_all(missing)
            (self.folder / SERVER).write_text(self.remote.server)

    def _fetch_all(self, missing: Sequence[ShardFile]) -> None:
        """By threads that no process waits for when it ends."""
        told = _Told(self.remote.place, sum(file.bytes for file in missing), self.folder)
        remote = RemoteFolder(self.remote.address, self.remote.option)
        waiting, lock = iter(missing), threading.Lock()
        done: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

        def work() -> None:
            while not remote.give_up.is_set():
                with lock:
                    file = next(waiting, None)
                if file is None:
                    return
                try:
                    self._fetch_one(file, remote, told)
                    done.put(None)
                except BaseException as error:  # it is raised by whoever waits
                    done.put(error)

        threads = [threading.Thread(target=work, name="afa-dist-fetch", daemon=True) for _ in range(AT_ONCE)]
        try:
            for thread in threads:
                thread.start()
            for _ in missing:
                if (error := done.get()) is not None:
                    raise error
        finally:
            remote.give_up.set()
            deadline = time.monotonic() + GIVE_UP_SECONDS
            for thread in threads:  # those under way remove what they had begun
                if thread.ident is not None:
                    thread.join(max(0.0, deadline - time.monotonic()))
        told.finish()

    def _fetch_one(self, file: ShardFile, remote: RemoteFolder, told: _Told) -> None:
        aside = self.folder / f".{file.name}.{secrets.token_hex(4)}.tmp"
        try:
            for _ in range(2):  # bytes may change on the way
                if remote.copy(file.name, aside, told.more) == (file.bytes, file.sha256):
                    sync(aside)
                    aside.replace(self.folder / file.name)
                    return
                told.more(-file.bytes)
            what = f"{remote.place}/{file.name} is not what its record says; copy or prepare it again"
            raise UserError.one(remote.option, what)
        except FileNotFoundError as error:
            raise UserError.one(remote.option, f"{remote.place}/{file.name} is gone; copy it again") from error
        finally:
            aside.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _writable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            what = f"{self.cache.folder} cannot be written ({error.strerror or error}); make room, or choose another folder"
            raise UnreachableError.one(self.cache.option, what) from error


class InCache:
    """Finds files of a set in its copy; the first one that is missing brings all of them.

    files: those that will be asked for.
    """

    def __init__(self, copy: CachedSet, files: Sequence[ShardFile]) -> None:
        self.copy, self.files = copy, files

    def __call__(self, file: ShardFile) -> Path:
        self.copy.hold()
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
        self._say(f"{gib(self.done)} of {gib(self.total)} of {self.place} are here{left}")

    def finish(self) -> None:
        if self._last != self.began:
            self._say(f"{self.place} is here, in {self.folder}")

    @staticmethod
    def _say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)
