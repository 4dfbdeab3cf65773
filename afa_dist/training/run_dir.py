"""The run directory: specification, provenance, metrics, checkpoints, exported model."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from afa_dist.address import below, is_address, runs_root, without_options
from afa_dist.config import BaseRun
from afa_dist.config.fields import to_mapping
from afa_dist.errors import Problem, UserError
from afa_dist.files import write_json, write_text
from afa_dist.training.checkpoint_store import CheckpointStore
from afa_dist.training.same_run import other_run_problems

OTHERS_SECONDS = 10.0
"""How long to wait for a directory that another process holds: one that was just killed needs a moment to vanish."""

PREDECESSOR_SECONDS = 120.0
"""The same if it can only be a worker of this run that was replaced: file servers keep the locks of a machine that is gone
for a while, NFS 4 for 90 s."""

TROUBLES = "troubles.jsonl"

RESULTS = ("checkpoints", "metrics.jsonl", "summary.json", "evaluation")
"""What a run leaves that another one must not be mixed with."""


class RunDirectory:
    """`runs_dir/name`. Making the object touches nothing; `create` and the `write_` methods do.

    place: what people know it by: `path`, or the address whose working copy `path` is.
    """

    def __init__(self, path: Path, place: str = "") -> None:
        self.path = path
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
            parent = next(folder for folder in self.path.parents if folder.exists())
            if not parent.is_dir() or not os.access(parent, os.W_OK):
                instead = "set XDG_CACHE_HOME" if is_address(run.runs_dir) else "choose another runs_dir"
                yield Problem("runs_dir", f"{parent} is not a folder that can be written to; {instead}")
            return
        if not self.path.is_dir() or (self._foreign() and not is_address(run.runs_dir)):
            yield Problem("name", f"{self.path} exists and is not a run directory; choose another name")
            return
        if self.has_results():
            yield from other_run_problems(self.read_config(), run, self.place)

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

    def starts(self) -> list[dict[str, Any]]:
        """Provenance of every start of the run, in their order."""
        return list((self.read_json("provenance.json") or {"starts": []})["starts"])

    def add_starts(self, starts: Sequence[Mapping[str, Any]]) -> None:
        """Take in those of `starts`, made on other machines, that are not known here; they have trained nothing."""
        own = self.starts()
        if more := [start for start in starts if start.get("start") not in {known.get("start") for known in own}]:
            write_json(self.path / "provenance.json", {"starts": [*own, *more]})

    def trained(self) -> set[tuple[Any, ...]]:
        """See `trained_in`."""
        return trained_in(self.starts())

    @property
    def run_id(self) -> str:
        """What this run's checkpoints are known by: the identity of its first start; empty where none was noted."""
        return str((self.starts() or [{}])[0].get("start", ""))

    def last_start(self) -> dict[str, Any]:
        """Provenance of the last start; empty where there was none.

        What it was started with is what its results are of: a start that would change that is refused if there are any.
        """
        return (self.starts() or [{}])[-1]

    @contextlib.contextmanager
    def locked(self, patience_seconds: float = 0.0) -> Iterator[None]:
        """Hold this directory for one run; the system lets go of it when the process ends, however it ends.

        Raises:
            UserError: another process holds it, for longer than `patience_seconds`.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "lock").open("a+") as file:
            deadline = time.monotonic() + patience_seconds
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
        write_text(self.path / "config.yaml", yaml.safe_dump(to_mapping(run), sort_keys=False))
        write_json(self.path / "provenance.json", {"starts": [*self.starts(), dict(provenance)]})

    def add_seconds(self, seconds: float) -> None:
        """Note that the present start has trained for `seconds` more."""
        if starts := self.starts():
            starts[-1]["seconds"] = round(starts[-1].get("seconds", 0.0) + seconds, 1)
            write_json(self.path / "provenance.json", {"starts": starts})

    def note_workers(self, step: int, workers: int) -> None:
        """Note that from `step` on the present start computes with so many workers."""
        if starts := self.starts():
            starts[-1].setdefault("workers", []).append({"step": step, "workers": workers})
            write_json(self.path / "provenance.json", {"starts": starts})

    def seconds(self) -> float:
        """Time trained in all starts together, as far as it was noted; steps repeated after a stop count twice."""
        return round(sum(start.get("seconds", 0.0) for start in self.starts()), 1)

    def read_config(self) -> dict[str, Any]:
        """The recorded specification, or an empty mapping."""
        import yaml

        try:
            return yaml.safe_load((self.path / "config.yaml").read_text()) or {}
        except FileNotFoundError:
            return {}

    def read_json(self, name: str) -> Any:
        """A JSON file of this directory, or None when there is none."""
        try:
            return json.loads((self.path / name).read_text())
        except FileNotFoundError:
            return None

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


def trained_in(starts: Sequence[Mapping[str, Any]]) -> set[tuple[Any, ...]]:
    """Every time that workers began to train, as far as provenance tells: who knows of one more has newer results."""
    found = set()
    for start in starts:
        for number, note in enumerate(start.get("workers", [])):
            found.add((start.get("start"), number, note.get("step"), note.get("workers")))
    return found
