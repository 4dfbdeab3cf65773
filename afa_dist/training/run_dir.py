"""The run directory: specification, provenance, metrics, checkpoints, exported model."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from afa_dist.config import BaseRun
from afa_dist.config.fields import to_mapping
from afa_dist.errors import Problem, UserError
from afa_dist.training.checkpoint import CheckpointStore, write_json

MAY_CHANGE = ("scaling", "tracking", "runs_dir")
"""Sections that do not change results: a run may be resumed with other values."""


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
        """Why `run` cannot use this directory: it holds another run, or something else."""
        if not self.path.exists():
            return
        if not self.path.is_dir() or (any(self.path.iterdir()) and not (self.path / "config.yaml").exists()):
            yield Problem("name", f"{self.path} exists and is not a run directory; choose another name")
            return
        recorded = self.read_config()
        if not recorded:
            return
        differences = list(_differences(recorded, to_mapping(run)))
        if differences:
            keys = "; ".join(differences)
            yield Problem(
                "name",
                f"{self.path} holds a run with another specification ({keys}); choose another name, or repeat its options "
                "to resume it",
            )

    def create(self, run: BaseRun, provenance: Mapping[str, Any]) -> None:
        """Make the directory and record the run; a resumed run keeps its first provenance and appends the new one."""
        self.path.mkdir(parents=True, exist_ok=True)
        config = self.path / "config.yaml"
        aside = config.with_name(".config.yaml.tmp")
        aside.write_text(yaml.safe_dump(to_mapping(run), sort_keys=False))
        os.replace(aside, config)
        earlier = self.read_json("provenance.json") or {"starts": []}
        write_json(self.path / "provenance.json", {"starts": [*earlier["starts"], dict(provenance)]})

    def read_config(self) -> dict[str, Any]:
        """The recorded specification, or an empty mapping."""
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
            aside = self.metrics_file.with_name(".metrics.jsonl.tmp")
            aside.write_text("".join(json.dumps(row) + "\n" for row in rows))
            os.replace(aside, self.metrics_file)


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


def _differences(recorded: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key in {**recorded, **now}:
        if not prefix and key in MAY_CHANGE:
            continue
        old, new = recorded.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            yield f"{prefix}{key}: recorded {old!r}, now {new!r}"
