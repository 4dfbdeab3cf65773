"""The run directory: specification, provenance, metrics, checkpoints, exported model."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from afa_dist.address import below, is_address, runs_root, without_options
from afa_dist.config import BaseRun
from afa_dist.config.fields import to_mapping
from afa_dist.errors import Problem, UserError
from afa_dist.files import exclusive, write_json, write_text
from afa_dist.training.checkpoint_store import CheckpointStore
from afa_dist.training.history import History
from afa_dist.training.same_run import other_run_problems

OTHERS_SECONDS = 10.0
"""How long to wait for a directory that another process holds: one that was just killed needs a moment to vanish."""

PREDECESSOR_SECONDS = 120.0
"""The same if it can only be a worker of this run that was replaced: file servers keep the locks of a machine that is gone
for a while, NFS 4 for 90 s."""

TROUBLES = "troubles.jsonl"

FOLDERS = ("model", "evaluation", "analysis", "tensorboard", "candidates", "data")
"""Of a run directory, beside checkpoints; others in it are run directories of their own."""

RESULTS = ("checkpoints", "metrics.jsonl", "summary.json", "evaluation", "analysis", "trials", "candidates")
"""What a run leaves that another one must not be mixed with."""


class RunDirectory(History):
    """`runs_dir/name`. Making the object touches nothing; `create` and the `write_` methods do.

    place: what people know it by: `path`, or the address whose working copy `path` is.
    """

    def __init__(self, path: Path, place: str = "") -> None:
        super().__init__(path)
        self.place = place or str(path)
        self.checkpoints = CheckpointStore(path / "checkpoints")

    @classmethod
    def at(cls, place: str) -> RunDirectory:
        """The run directory at a path or an address (for which the working copy is as old as it is)."""
        return cls(runs_root(place), without_options(place) if is_address(place) else "")

    @classmethod
    def of(cls, run: BaseRun) -> RunDirectory:
        return cls.at(below(run.runs_dir, run.name))

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def model(self) -> Path:
        return self.path / "model"

    def problems(self, run: BaseRun) -> Iterator[Problem]:
        """Why `run` cannot use this directory: no place for it, or it holds another run, or something else."""
        if not self.path.exists():
            yield from self.place_problems(run)
            return
        if not self.path.is_dir() or (self._foreign() and not is_address(run.runs_dir)):
            yield Problem("name", f"{self.path} exists and is not a run directory; choose another name")
            return
        if self.has_results():
            yield from other_run_problems(self.read_config(), run, self.place)

    def place_problems(self, run: BaseRun) -> Iterator[Problem]:
        """Whether there is no place for the directory, if it does not exist."""
        if not self.path.exists():
            parent = next(folder for folder in self.path.parents if folder.exists())
            if not parent.is_dir() or not os.access(parent, os.W_OK):
                instead = "set XDG_CACHE_HOME" if is_address(run.runs_dir) else "choose another runs_dir"
                yield Problem("runs_dir", f"{parent} is not a folder that can be written to; {instead}")

    def _foreign(self) -> bool:
        """Whether the folder holds something, and that is no run; one that was only locked is as good as empty."""
        visible = [entry for entry in self.path.iterdir() if entry.name != "lock" and not entry.name.startswith(".")]
        return bool(visible) and not (self.path / "config.yaml").exists()

    def finished(self) -> bool:
        """Whether a training run ended here."""
        return (self.path / "summary.json").exists()

    def has_results(self) -> bool:
        """Whether a run got as far as to leave anything that another one must not be mixed with."""
        return any((self.path / name).exists() for name in RESULTS)

    def data_problems(self, fingerprint: str) -> Iterator[Problem]:
        """Whether the images are still those of the earlier start."""
        if self.has_results() and self.last_start().get("data_fingerprint", fingerprint) != fingerprint:
            yield Problem("data", f"the images are not those that {self.place} was started with; choose another name")

    def set_aside_files(self, keep: Collection[str]) -> None:
        """Move files that are not in `keep`, and no checkpoints, into a hidden folder: they are of another turn."""
        for file in files_in(self.path):
            name = file.relative_to(self.path)
            if str(name) not in {*keep, TROUBLES, "lock"} and not file.name.startswith("."):
                target = self.path / ".aside" / name
                target.parent.mkdir(parents=True, exist_ok=True)
                file.replace(target)

    @contextlib.contextmanager
    def locked(self, patience_seconds: float = 0.0, shared: bool = False) -> Iterator[None]:
        """Hold this directory for one run; the system lets go of it when the process ends, however it ends.

        shared: hold it together with others who say so.

        Raises:
            UserError: another process holds it, for longer than `patience_seconds`.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "lock").open("a+") as file:
            deadline = time.monotonic() + patience_seconds
            while True:
                try:
                    fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if time.monotonic() > deadline:
                        file.seek(0)
                        holder = file.read().strip() or "another process"
                        what = f"{self.path} is in use by {holder}; wait for it, or choose another name"
                        raise UserError.one("name", what) from error
                    time.sleep(0.1)
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
            yield

    def in_use(self) -> bool:
        """Whether a process of this machine (or one that shares its folders) holds the directory now."""
        try:
            with (self.path / "lock").open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared, so that two that ask see nobody
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def note_trouble(self, what: str) -> None:
        """Add a line to troubles.jsonl: what a worker has to say that cannot say it any other way."""
        row = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "host": socket.gethostname(), "what": what}
        self.path.mkdir(parents=True, exist_ok=True)  # of an address, other machines may have no copy yet
        self.add_troubles([json.dumps(row)])

    def troubles(self) -> list[str]:
        """The lines of troubles.jsonl."""
        try:
            return (self.path / TROUBLES).read_text().splitlines()
        except FileNotFoundError:
            return []

    def add_troubles(self, lines: Sequence[str]) -> None:
        """Add those of `lines` that are not there."""
        known = set(self.troubles())
        if more := [line for line in lines if line not in known]:
            with (self.path / TROUBLES).open("a") as file:
                file.write("".join(f"{line}\n" for line in more))

    def create(self, run: BaseRun, provenance: Mapping[str, Any]) -> None:
        """Make the directory and record the run; a resumed run keeps its first provenance and appends the new one."""
        import yaml  # here: a training loop alone, on a machine with little more than torch, does without it

        self.path.mkdir(parents=True, exist_ok=True)
        with exclusive(self.path / ".create"):  # elements of a job array come together
            write_text(self.path / "config.yaml", yaml.safe_dump(to_mapping(run), sort_keys=False))
            write_json(self.path / "provenance.json", {"starts": [*self.starts(), dict(provenance)]})

    def read_config(self) -> dict[str, Any]:
        """The recorded specification, or an empty mapping."""
        import yaml

        path = self.path / "config.yaml"
        try:
            found = yaml.safe_load(path.read_text()) or {}
        except FileNotFoundError:
            return {}
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError.one("name", f"{path} is damaged; put it right, or choose another name") from error
        if not isinstance(found, dict):
            raise UserError.one("name", f"{path} is damaged; put it right, or choose another name")
        return found

    def write_json(self, name: str, value: Any) -> None:
        write_json(self.path / name, value)

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        with self.metrics_file.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """All rows recorded; a last line cut off by a kill is left out."""
        try:
            lines = self.metrics_file.read_text().splitlines()
        except FileNotFoundError:
            return []
        rows = []
        for line in lines:
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue
        return rows

    def rewind_metrics(self, step: int) -> None:
        """Drop rows after `step`: the resumed run writes them again."""
        rows = [row for row in self.metrics() if row["step"] <= step]
        if self.metrics_file.exists():
            write_text(self.metrics_file, "".join(json.dumps(row) + "\n" for row in rows))


def files_in(path: Path) -> list[Path]:
    """All files of the run directory `path`, but for checkpoints and other run directories in it."""
    found = [*path.iterdir(), *(file for folder in FOLDERS for file in (path / folder).rglob("*"))]
    return sorted(file for file in found if file.is_file())
