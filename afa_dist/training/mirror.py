"""A copy of a run directory on any file system of pyarrow (s3://, gs://, hdfs://, file://), kept while training goes on.

Checkpoints are what they are on the disk: the manifest comes last, so one without it is none, and whoever loads one checks
every hash. Object stores know no rename; none is needed.
"""

from __future__ import annotations

import contextlib
import json
import queue
import shutil
import threading
import warnings
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath

import pyarrow as pa
from pyarrow import fs

from afa_dist.distributed import beat
from afa_dist.errors import Problem, TrainingError, UserError
from afa_dist.training.checkpoint import MANIFEST, CheckpointStore, folder_name, step_of
from afa_dist.training.run_dir import RunDirectory

LOCAL_ONLY = ("lock", "stop.json", "ray", "checkpoints")
"""What is of no use elsewhere, and what `Mirror.put_checkpoint` copies in its own order."""

OBJECT_STORES = ("s3", "gcs", "abfs")
"""File systems on which a file appears when it is all written, and folders are but parts of names."""

CHUNK_BYTES = 8 << 20


class Mirror:
    """The copy of one run.

    uri: the folder of all mirrored runs. name: the run's name in it.

    Raises:
        OSError: the file system does not answer (from all methods as well).
        ValueError: `uri` is none that pyarrow knows.
    """

    def __init__(self, uri: str, name: str) -> None:
        base, path = fs.FileSystem.from_uri(uri)
        self._fs: fs.FileSystem = base
        self.uri = f"{uri.partition(':')[0]}://{path}/{name}"
        """Without what may stand behind a question mark."""
        self._root = PurePosixPath(path) / name
        self._sent: dict[Path, tuple[int, int]] = {}
        """Time and size of files when they were copied."""

    def steps(self) -> list[int]:
        """Steps of the whole checkpoints, ascending."""
        found = self._names("checkpoints")
        manifests = {PurePosixPath(name).parent.name for name in found if name.endswith(f"/{MANIFEST}")}
        return sorted(step for folder in manifests if (step := step_of(folder)) is not None)

    def run_id(self) -> str:
        """The identity of the run (see `RunDirectory.run_id`); empty where there is none."""
        try:
            with self._fs.open_input_stream(str(self._root / "provenance.json")) as stream:
                starts = json.loads(stream.read())["starts"]
        except FileNotFoundError:
            return ""
        return str((starts or [{}])[0].get("start", ""))

    def put_files(self, directory: Path) -> None:
        """Copy everything but checkpoints."""
        for file in _files(directory):
            name = file.relative_to(directory)
            with contextlib.suppress(FileNotFoundError):  # it is gone again
                state = file.stat()
                if name.parts[0] not in LOCAL_ONLY and self._sent.get(file) != (state.st_mtime_ns, state.st_size):
                    self._put(file, self._root / name.as_posix())
                    self._sent[file] = (state.st_mtime_ns, state.st_size)

    def put_checkpoint(self, folder: Path) -> None:
        """Copy one checkpoint, its manifest last; what is left there of an attempt that was cut off goes first."""
        target = self._root / "checkpoints" / folder.name
        self._delete(target)
        for file in sorted(_files(folder), key=lambda file: file.name == MANIFEST):
            self._put(file, target / file.name)

    def keep_only(self, steps: set[int]) -> None:
        """Delete the checkpoints of other steps, whole or not, manifests first."""
        found = [PurePosixPath(name) for name in self._names("checkpoints")]
        kept = {folder_name(step) for step in steps}
        for file in found:
            if file.name == MANIFEST and file.parent.name not in kept:
                self._fs.delete_file(str(file))
        for folder in {file.parent for file in found if file.parent.name not in kept}:
            self._delete(folder)

    def update(self, directory: RunDirectory, anew: Collection[int] = ()) -> None:
        """Copy all that `directory` has and the mirror lacks: after a failure more than the newest checkpoint.

        anew: steps whose checkpoints were just saved; what the mirror has of them is older, perhaps damaged.
        """
        self.put_files(directory.path)
        store = directory.checkpoints
        have = set(self.steps())
        for step in store.steps():
            if step not in have or step in anew:
                try:
                    self.put_checkpoint(store.path(step))
                except FileNotFoundError as error:
                    if not Path(error.filename or "").is_relative_to(store.folder):
                        raise
                    # It is being deleted here, as too old, and goes there as well.
        self.keep_only(set(store.steps()))

    def get_files(self, directory: Path) -> None:
        """Copy everything but checkpoints here."""
        for name in self._names(""):
            relative = PurePosixPath(name).relative_to(self._root)
            if relative.parts[0] not in LOCAL_ONLY:
                self._get(name, directory / relative)

    def get_checkpoint(self, step: int, store: CheckpointStore) -> None:
        """Copy one checkpoint here; it appears when it is all there, and is not verified before it is loaded."""
        target = store.path(step)
        aside = target.with_name(f".{target.name}.tmp")
        shutil.rmtree(aside, ignore_errors=True)
        for name in self._names(f"checkpoints/{target.name}"):
            self._get(name, aside / PurePosixPath(name).name)
        shutil.rmtree(target, ignore_errors=True)
        aside.replace(target)

    def _delete(self, folder: PurePosixPath) -> None:
        if self._fs.get_file_info(str(folder)).type != fs.FileType.NotFound:
            self._fs.delete_dir(str(folder))

    def _names(self, below: str) -> list[str]:
        selector = fs.FileSelector(str(self._root / below), recursive=True, allow_not_found=True)
        return [info.path for info in self._fs.get_file_info(selector) if info.type == fs.FileType.File]

    def _put(self, source: Path, target: PurePosixPath) -> None:
        objects = self._fs.type_name in OBJECT_STORES
        written = str(target if objects else target.with_name(f".{target.name}.tmp"))
        if not objects:
            self._fs.create_dir(str(target.parent), recursive=True)
        with source.open("rb") as file, self._fs.open_output_stream(written) as stream:
            while chunk := file.read(CHUNK_BYTES):
                stream.write(chunk)
                beat()
        if not objects:
            self._fs.move(written, str(target))

    def _get(self, source: str, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        with self._fs.open_input_stream(source) as stream, target.open("wb") as file:
            while chunk := stream.read(CHUNK_BYTES):
                file.write(chunk)
                beat()


def mirror_problems(uri: str | None, name: str) -> Iterator[Problem]:
    """Why a mirror cannot be used: no such kind of address, no answer, no right."""
    if uri is None:
        return
    if "@" in uri.partition("?")[0]:
        yield Problem("checkpoint.mirror", "holds a password, which would stand in config.yaml; give it by the environment")
        return
    try:
        Mirror(uri, name).run_id()
    except (OSError, ValueError, pa.ArrowException) as error:
        yield Problem("checkpoint.mirror", f"{uri} cannot be used: {_words(error)}")


def restore(uri: str, name: str, directory: RunDirectory) -> int | None:
    """Bring the directory to where its mirror is, if that is further; returns the mirror's last step then.

    Raises:
        UserError: the mirror holds another run.
        TrainingError: it does not answer.
    """
    try:
        mirror = Mirror(uri, name)
        known, steps = mirror.run_id(), mirror.steps()
        own = directory.run_id if directory.has_results() else ""
        if known and own and known != own:
            what = f"{mirror.uri} mirrors another run than {directory.path} holds; choose another name or mirror"
            raise UserError.one("checkpoint.mirror", what)
        here = directory.checkpoints.steps() if own else []
        if not steps or (here and here[-1] >= steps[-1]):
            return None
        mirror.get_files(directory.path)
        for step in steps:
            if step not in here:
                mirror.get_checkpoint(step, directory.checkpoints)
    except (OSError, pa.ArrowException) as error:
        raise TrainingError(f"the mirror of {directory.path} cannot be read: {_words(error)}") from error
    return steps[-1]


def complete(uri: str, name: str, directory: RunDirectory) -> None:
    """Bring the mirror to where the directory is.

    Raises:
        TrainingError: it cannot be reached, or not be written to.
    """
    try:
        Mirror(uri, name).update(directory)
    except (OSError, pa.ArrowException) as error:
        what = f"the run is complete in {directory.path}, its mirror in {uri} is not: {_words(error)}"
        raise TrainingError(f"{what}. The same command copies the rest") from error


class Uploads:
    """Copies checkpoints to a mirror beside the training. A mirror that fails does not stop it, and is tried again."""

    def __init__(self, uri: str, name: str, directory: RunDirectory) -> None:
        self.uri = uri
        self.name = name
        self.directory = directory
        self.trouble = ""
        """Why the last copy did not succeed."""
        self._closing = False
        self._saved: set[int] = set()
        """Steps that were added and are not copied yet; the thread's own."""
        self._jobs: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="afa-dist-uploads", daemon=True)
        self._thread.start()

    def add(self, step: int) -> None:
        """Copy the checkpoint of `step` soon."""
        self._jobs.put(step)

    def close(self) -> None:
        """Wait until all is copied that was added."""
        self._jobs.put(None)
        self._thread.join()

    def _newest_job(self) -> int | None:
        """The last step that was added, or None after it: a mirror that is slow or gone is not asked for each of them."""
        step = self._jobs.get() if not self._closing else None
        while step is not None and not self._jobs.empty():
            following = self._jobs.get()
            if following is None:
                self._closing = True
                break
            self._saved.add(step)
            step = following
        if step is not None:
            self._saved.add(step)
        return step

    def _work(self) -> None:
        mirror = None
        while (step := self._newest_job()) is not None:
            try:
                mirror = mirror or Mirror(self.uri, self.name)
                mirror.update(self.directory, self._saved)
                self._saved.clear()
                self.trouble = ""
            except (OSError, pa.ArrowException) as error:
                first = not self.trouble
                self.trouble = f"{self.uri} lacks step {step}: {_words(error)}"
                self.directory.note_trouble(self.trouble)
                if first:
                    warnings.warn(f"{self.trouble}; training goes on, it is tried again", stacklevel=2)


def _words(error: Exception) -> str:
    """What an error says, in one line that is not endless: object stores quote their requests."""
    return " ".join(str(error).split())[:300]


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("."))
