"""The run directory: specification, provenance, metrics, checkpoints, exported model."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from afa_dist.config import BaseRun
from afa_dist.config.fields import to_mapping
from afa_dist.errors import Problem, UserError
from afa_dist.files import write_json, write_text
from afa_dist.training.checkpoint import CheckpointStore

MAY_CHANGE = (
    "runs_dir",
    "data.path",
    "tracking",
    "scaling.workers",
    "scaling.device",
    "scaling.threads",
    "scaling.compile",
    "scaling.max_failures",
    "scaling.timeout_seconds",
    "scaling.resize_seconds",
    "scaling.wait_seconds",
    "checkpoint.keep_last",
    "checkpoint.keep_best",
    "checkpoint.mirror",
    "optimiser.not_finite",
    "optimiser.max_skipped",
)
"""What a run may be resumed with other values of: where it computes, what is noted beside, where its images lie, which are
recognised by what is in them, what becomes of steps that would have ended it, and how many checkpoints it keeps."""

PATHS = ("init", "model")
"""Options that name a place: two ways of writing one place are no difference."""


class RunDirectory:
    """`runs_dir/name`. Making the object touches nothing; `create` and the `write_` methods do."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = CheckpointStore(path / "checkpoints")

    @classmethod
    def of(cls, run: BaseRun) -> RunDirectory:
        return cls(runs_root(run.runs_dir) / run.name)

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
                yield Problem("runs_dir", f"{parent} is not a folder that can be written to; choose another runs_dir")
            return
        if not self.path.is_dir() or (any(self.path.iterdir()) and not (self.path / "config.yaml").exists()):
            yield Problem("name", f"{self.path} exists and is not a run directory; choose another name")
            return
        if self.has_results() and (differences := list(_differences(self.read_config(), to_mapping(run)))):
            yield Problem(
                "name",
                f"{self.path} holds a run with another specification ({'; '.join(differences)}); choose another name, or "
                "repeat its options to resume it",
            )

    def finished(self) -> bool:
        """Whether a training run ended here."""
        return (self.path / "summary.json").exists()

    def has_results(self) -> bool:
        """Whether a run got as far as to leave anything that another one must not be mixed with."""
        return any((self.path / name).exists() for name in ("checkpoints", "metrics.jsonl", "summary.json", "evaluation"))

    def data_problems(self, fingerprint: str) -> Iterator[Problem]:
        """Whether the images are still those of the earlier start."""
        if self.has_results() and self.last_start().get("data_fingerprint", fingerprint) != fingerprint:
            yield Problem("data", f"the images are not those that {self.path} was started with; choose another name")

    def starts(self) -> list[dict[str, Any]]:
        """Provenance of every start of the run, in their order."""
        return list((self.read_json("provenance.json") or {"starts": []})["starts"])

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
    def locked(self, patience_seconds: float = 10.0) -> Iterator[None]:
        """Hold this directory for one run; the system lets go of it when the process ends, however it ends.

        Raises:
            UserError: another process holds it, for longer than a worker that is being replaced takes to vanish.
        """
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

    def ask_to_stop(self, start: str, reason: str) -> None:
        """Leave word for the workers of `start`, who may be on other machines, that its time is over."""
        write_json(self.path / "stop.json", {"start": start, "reason": reason})

    def asked_to_stop(self, start: str) -> str:
        """The reason if the workers of `start` are asked to stop, else an empty text. Cheap: called in every step."""
        if not (self.path / "stop.json").exists():
            return ""
        asked = self.read_json("stop.json") or {}
        return str(asked["reason"]) if asked.get("start") == start else ""

    def note_trouble(self, what: str) -> None:
        """Add a line to troubles.jsonl: what a worker has to say that cannot say it any other way."""
        row = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "host": socket.gethostname(), "what": what}
        with (self.path / "troubles.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")

    def troubles(self) -> list[str]:
        """What was noted so far, the last one last."""
        try:
            return [json.loads(line)["what"] for line in (self.path / "troubles.jsonl").read_text().splitlines()]
        except FileNotFoundError:
            return []

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


def runs_root(runs_dir: str) -> Path:
    """Where run directories go, absolute.

    Inside a Ray job the current folder is a throw-away copy of the code, so a relative folder is taken from the home
    directory instead.
    """
    path = Path(runs_dir).expanduser()
    if path.is_absolute():
        return path
    in_ray_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    return (Path.home() if in_ray_job else Path.cwd()) / path


def same_place(one: Any, other: Any) -> bool:
    """Whether two options name one file or folder; relative ones start where `runs_root` says."""
    return isinstance(one, str) and isinstance(other, str) and runs_root(one).resolve() == runs_root(other).resolve()


def _differences(recorded: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key in {**recorded, **now}:
        if f"{prefix}{key}" in MAY_CHANGE:
            continue
        old, new = recorded.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _differences(old, new, f"{prefix}{key}.")
        elif key not in recorded and not new:
            continue  # the option is younger than the record, and off
        elif old != new and not (f"{prefix}{key}" in PATHS and same_place(old, new)):
            yield f"{prefix}{key}: recorded {old!r}, now {new!r}"
