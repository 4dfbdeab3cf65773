"""A copy of a run directory on any file system of pyarrow (s3://, gs://, hdfs://, file://).

Checkpoints are what they are on the disk: the manifest comes last, so one without it is none, and whoever loads one checks
every hash. Object stores know no rename; none is needed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

import pyarrow as pa
from pyarrow import fs

from afa_dist.address import without_options
from afa_dist.distributed import beat
from afa_dist.files import write_aside
from afa_dist.training.checkpoint import MANIFEST, folder_name, step_of
from afa_dist.training.checkpoint_store import CheckpointStore
from afa_dist.training.history import PROVENANCE
from afa_dist.training.run_dir import FOLDERS, RESULTS, files_in

LEASE = "lease.json"
CONFIG, METRICS, SUMMARY = "config.yaml", "metrics.jsonl", "summary.json"

LOCAL_ONLY = ("lock", LEASE)
"""What is of no use elsewhere, and what lies there alone."""

OBJECT_STORES = ("s3", "gcs", "abfs")
"""File systems on which a file appears when it is all written, and folders are but parts of names."""

CHUNK_BYTES = 8 << 20

UNANSWERED = (OSError, ValueError, pa.ArrowException)
"""What comes of a place that does not answer, or not with what is expected."""


WRITTEN_ONCE = ("candidates",)
"""Folders whose files, many and large, never change: what is there in the same size is not copied again."""


class Mirror:
    """The copy of one run.

    address: where its directory lies there.

    Raises:
        OSError: the file system does not answer (from all methods as well).
        ValueError: `address` is none that pyarrow knows.
    """

    def __init__(self, address: str) -> None:
        self.filesystem, self.root = fs.FileSystem.from_uri(address)
        """What pyarrow makes of `address`: a file system and a path on it."""
        self.place = without_options(address)
        self._sent: dict[Path, tuple[int, int]] = {}
        """Time and size of files when they were copied."""

    def local_folder(self) -> Path | None:
        """The folder, if it is one of this machine."""
        return Path(self.root) if self.filesystem.type_name == "local" else None

    def steps(self) -> list[int]:
        """Steps of the whole checkpoints, ascending."""
        manifests = {name.parent.name for name, _ in self._files("checkpoints") if name.name == MANIFEST}
        return sorted(step for folder in manifests if (step := step_of(folder)) is not None)

    def manifest(self, step: int) -> str:
        """The text of a checkpoint's manifest; empty where there is none."""
        return self.read_text(f"checkpoints/{folder_name(step)}/{MANIFEST}")

    def starts(self) -> list[dict[str, Any]]:
        """See `RunDirectory.starts`.

        Raises:
            ValueError: the file there says something else.
        """
        found = json.loads(self.read_text(PROVENANCE) or '{"starts": []}')
        starts = found.get("starts") if isinstance(found, dict) else None
        if not isinstance(starts, list) or not all(isinstance(start, dict) for start in starts):
            raise ValueError(f"{self.place}/{PROVENANCE} is no record of a run")
        return starts

    def run_id(self) -> str:
        """The identity of the run (see `RunDirectory.run_id`); empty where there is none."""
        return str((self.starts() or [{}])[0].get("start", ""))

    def has_results(self) -> bool:
        """See `RunDirectory.has_results`."""
        return any(name.parts[0] in RESULTS for name, _ in self._files(""))

    def sizes(self) -> dict[str, int]:
        """Bytes of each file there is, by its name."""
        return {str(name): info.size for name, info in self._files("")}

    def read_text(self, name: str) -> str:
        """What a file says; empty where there is none."""
        try:
            with self.filesystem.open_input_stream(self._path(name)) as stream:
                return str(stream.read(), "utf-8")
        except FileNotFoundError:
            return ""

    def write_text(self, name: str, text: str) -> None:
        with self._written(PurePosixPath(name)) as stream:
            stream.write(text.encode())

    def is_empty(self) -> bool:
        return not self._files("")

    def remove(self) -> None:
        """Delete all of it."""
        self._delete_folder(PurePosixPath())

    def delete(self, name: str) -> None:
        """Delete a file; it may be gone already."""
        with contextlib.suppress(FileNotFoundError):
            self.filesystem.delete_file(self._path(name))

    def put_files(self, directory: Path, only: str = "", without: Collection[str] = ()) -> None:
        """Copy everything but checkpoints, or the one file."""
        there: dict[str, int] | None = None
        for file in files_in(directory):
            name = file.relative_to(directory)
            with contextlib.suppress(FileNotFoundError):  # it is gone again
                state = file.stat()
                new = self._sent.get(file) != (state.st_mtime_ns, state.st_size)
                if new and name.parts[0] in WRITTEN_ONCE and not only:
                    there = self.sizes() if there is None else there
                    new = there.get(name.as_posix()) != state.st_size
                if new and is_copied(name) and only in ("", str(name)) and str(name) not in without:
                    self._put(file, PurePosixPath(name.as_posix()))
                    self._sent[file] = (state.st_mtime_ns, state.st_size)

    def put_checkpoint(self, folder: Path, check: Callable[[], None] = lambda: None) -> None:
        """Copy one checkpoint, its manifest last; what is left there of an attempt that was cut off goes first.

        check: called before each change, to raise if the mirror is not ours to change any more.
        """
        target = PurePosixPath("checkpoints") / folder.name
        files = sorted(folder.iterdir(), key=lambda file: file.name == MANIFEST)
        check()
        self.delete(str(target / MANIFEST))
        self._delete_folder(target)
        for file in files:
            check()
            self._put(file, target / file.name)

    def keep_only(self, steps: set[int]) -> None:
        """Delete the checkpoints of other steps, whole or not, manifests first."""
        kept = {folder_name(step) for step in steps}
        found = [name for name, _ in self._files("checkpoints") if name.parent.name not in kept]
        for name in found:
            if name.name == MANIFEST:
                self.delete(str(name))
        for folder in {name.parent for name in found}:
            self._delete_folder(folder)

    def get_files(self, directory: Path, without: Collection[str] = (), all_anew: bool = True) -> list[str]:
        """Copy everything but checkpoints here, or what looks as if it had changed since it was; returns all names."""
        names = []
        for name, info in self._files(""):
            target = directory / name
            if not is_copied(name) or str(name) in without:
                continue
            if all_anew or not _is_copy(target, info):
                self._get(name, target)
                os.utime(target, ns=(info.mtime_ns, info.mtime_ns))
            names.append(str(name))
        return names

    def get_file(self, name: str, directory: Path) -> None:
        """Copy one file here, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self._get(PurePosixPath(name), directory / name)

    def get_checkpoint(self, step: int, store: CheckpointStore) -> bool:
        """Copy one checkpoint here; it appears when it is all there, and is not verified before it is loaded.

        Returns whether it was still there: whoever works on the run may delete it meanwhile.
        """
        target = store.path(step)
        aside, old = (target.with_name(f".{target.name}.{what}") for what in ("tmp", "old"))
        for folder in (aside, old):
            shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            for name, _ in self._files(f"checkpoints/{target.name}"):
                if not name.name.startswith("."):
                    self._get(name, aside / name.name)
        if not (aside / MANIFEST).exists():
            shutil.rmtree(aside, ignore_errors=True)
            return False
        if target.exists():
            target.replace(old)
        aside.replace(target)
        shutil.rmtree(old, ignore_errors=True)
        return True

    def _path(self, name: str) -> str:
        return str(PurePosixPath(self.root) / name)

    def _delete_folder(self, folder: PurePosixPath) -> None:
        path = self._path(str(folder))
        if self.filesystem.get_file_info(path).type != fs.FileType.NotFound:
            self.filesystem.delete_dir(path)

    def _files(self, below: str) -> list[tuple[PurePosixPath, fs.FileInfo]]:
        """All files below a folder, named from the root of the mirror; one whose name begins with a dot is half written."""
        selector = fs.FileSelector(self._path(below), recursive=True, allow_not_found=True)
        found = [info for info in self.filesystem.get_file_info(selector) if info.type == fs.FileType.File]
        named = [(PurePosixPath(info.path).relative_to(self.root), info) for info in found]
        if leading := next((name for name, _ in named if ".." in name.parts or name.is_absolute()), None):
            raise ValueError(f"{self.place} holds {str(leading)!r}, which leads elsewhere")
        return named

    @contextlib.contextmanager
    def _written(self, target: PurePosixPath) -> Iterator[Any]:
        """A stream whose content appears at `target` when all is written."""
        path = self._path(str(target))
        if self.filesystem.type_name in OBJECT_STORES:
            with self.filesystem.open_output_stream(path) as stream:
                yield stream
            return
        aside = self._path(str(target.with_name(f".{target.name}.tmp")))
        self.filesystem.create_dir(self._path(str(target.parent)), recursive=True)
        with self.filesystem.open_output_stream(aside) as stream:
            yield stream
        self.filesystem.move(aside, path)

    def _put(self, source: Path, target: PurePosixPath) -> None:
        with source.open("rb") as file, self._written(target) as stream:
            while chunk := file.read(CHUNK_BYTES):
                stream.write(chunk)
                beat()

    def _get(self, source: PurePosixPath, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)

        def write(aside: Path) -> None:
            with self.filesystem.open_input_stream(self._path(str(source))) as stream, aside.open("wb") as file:
                while chunk := stream.read(CHUNK_BYTES):
                    file.write(chunk)
                    beat()

        write_aside(target, write)


def words(error: Exception) -> str:
    """What an error says, in one line that is not endless: object stores quote their requests."""
    return " ".join(str(error).split())[:300]


def is_copied(name: PurePath) -> bool:
    """Whether a file with that name in a run directory is copied with those that are no checkpoints."""
    if name.name.startswith("."):
        return False
    return name.parts[0] in FOLDERS or (len(name.parts) == 1 and name.name not in LOCAL_ONLY)


def _is_copy(file: Path, info: fs.FileInfo) -> bool:
    """Whether `file` was copied from what `info` describes (then it has its time) and is as it was."""
    try:
        state = file.stat()
    except FileNotFoundError:
        return False
    return (state.st_mtime_ns, state.st_size) == (info.mtime_ns, info.size)
