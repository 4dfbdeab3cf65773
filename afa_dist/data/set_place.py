"""Where a prepared set lies: in a folder of this machine, or at an address, with a copy here."""

from __future__ import annotations

import contextlib
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

from afa_dist.address import cache_home, is_address
from afa_dist.config import DataConfig
from afa_dist.config.preparing import LookRun, PrepareRun
from afa_dist.data.cache import CachedSet, InCache
from afa_dist.data.cache_room import Cache, gib
from afa_dist.data.open_shards import ShardFile, Whereabouts
from afa_dist.data.remote import RemoteFolder
from afa_dist.errors import Problem, UserError

RECORD = "dataset.json"


class SetPlace(ABC):
    """name: as people know it."""

    name: str

    @abstractmethod
    def record(self) -> bytes:
        """Its `dataset.json`.

        Raises:
            OSError: there is none.
            UserError: the place does not answer.
        """

    @abstractmethod
    def sizes(self) -> dict[str, int]:
        """Bytes of each file there."""

    @abstractmethod
    def whereabouts(self, files: Sequence[ShardFile]) -> Whereabouts:
        """Finds `files` on this machine; those of an address are brought here when the first one is asked for."""

    def room_problems(self, files: Sequence[ShardFile]) -> Iterator[Problem]:
        """Whether there can be no room for copies of `files`, should they be needed."""
        yield from ()


class Folder(SetPlace):
    """A folder of this machine, or one that it sees."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, str(path)

    def record(self) -> bytes:
        return (self.path / RECORD).read_bytes()

    def sizes(self) -> dict[str, int]:
        sizes = {}
        for path in self.path.iterdir():
            with contextlib.suppress(FileNotFoundError):  # a set that has just been made is still being tidied up
                sizes[path.name] = path.stat().st_size
        return sizes

    def whereabouts(self, files: Sequence[ShardFile]) -> Whereabouts:
        return InFolder(self.path)


class InFolder:
    """Finds files in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, file: ShardFile) -> Path:
        return self.folder / file.name

    def forget(self, file: ShardFile) -> bool:
        return False


class Address(SetPlace):
    """A folder of an object store and the like; see `CachedSet`."""

    def __init__(self, address: str, cache: Cache, option: str) -> None:
        self._remote = RemoteFolder(address, option)
        if cache.knows(self._remote.server):
            self._remote.note_answer()
        self._cache, self.name = cache, self._remote.place
        self._identity = ""

    def record(self) -> bytes:
        found = self._remote.read(RECORD)
        self._identity = hashlib.sha256(found).hexdigest()
        return found

    def sizes(self) -> dict[str, int]:
        return self._remote.sizes()

    def room_problems(self, files: Sequence[ShardFile]) -> Iterator[Problem]:
        needed, most = sum(file.bytes for file in files), self._cache.most_bytes
        if needed > most:
            hint = "allow more, or copy the set to a disk and give its folder"
            yield Problem(self._cache.size_option, f"{gib(most)} is too little: {self.name} needs {gib(needed)}; {hint}")

    def whereabouts(self, files: Sequence[ShardFile]) -> Whereabouts:
        assert self._identity, "the record has not been read"
        return InCache(CachedSet(self._remote, self._cache, self._identity), files)


def cache_of(options: DataConfig | PrepareRun | LookRun, section: str) -> Cache:
    """The cache that `options` describe; section: what stands before their names."""
    folder = Path(options.cache).expanduser() if options.cache else cache_home() / "afa-dist" / "sets"
    return Cache(folder, round(options.cache_gib * 2**30), section)


def place_of(path: str, config: DataConfig) -> SetPlace:
    """The place that `path` names, with the cache that `config` has.

    Raises:
        UserError: it is no folder, or no address that is known.
    """
    if is_address(path):
        return Address(path, cache_of(config, "data."), "data.path")
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise UserError.one("data.path", f"{folder} is not a folder that can be read; data.name {config.name} needs one")
    return Folder(folder)
