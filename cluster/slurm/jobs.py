"""The job behind a submission: asks its own script whether all is well, and what its options come to."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from afa_dist.address import below
from afa_dist.cli import recipes
from afa_dist.errors import Problem, UserError
from afa_dist.files import write_json
from cluster.slurm.store import place_of
from cluster.snapshot import ROOT

LAST_LINES = 15

ONE_BY_ONE = ("tune", "preflight")
"""Jobs for which workers are not what spreads over the nodes."""


@dataclasses.dataclass(frozen=True)
class Job:
    """One script of jobs/ with all its options resolved, so that a recipe may change while the job waits.

    words: what stands before its options, such as the command of generate.py.
    """

    script: str
    config: Mapping[str, Any]
    words: tuple[str, ...] = ()

    @property
    def in_shards(self) -> bool:
        """Whether it can be shared by the elements of an array."""
        return "shard" in self.config

    @property
    def place(self) -> str:
        """Where the run will be, absolute."""
        return place_of(below(str(self.config["runs_dir"]), str(self.config["name"])))

    def stage(self, script: str, name: str) -> Job:
        """A stage of a pipeline as a job of its own."""
        return Job(script, self.config[name])


def resolve(script: str, arguments: Sequence[str], nodes: int, gpus: int) -> Job:
    """Check the options of a job as the job itself does, and resolve them.

    On several nodes without GPUs a job takes a worker a node, unless it says how many.

    Raises:
        UserError: all mistakes that it finds, in its own words.
    """
    if nodes > 1 and not gpus and script not in ONE_BY_ONE and not _says_workers(arguments):
        arguments = [*arguments, "--scaling.workers", str(nodes)]
    count = next((place for place, word in enumerate(arguments) if word.startswith("-")), len(arguments))
    return Job(script, _asked(script, arguments), tuple(arguments[:count]))


def _says_workers(arguments: Sequence[str]) -> bool:
    """Whether the options of a job, or its recipe, say how many workers it takes."""
    if any(word.partition("=")[0].endswith("scaling.workers") for word in arguments):
        return True
    for place, word in enumerate(arguments):
        path = word.partition("=")[2] or (arguments[place + 1] if place + 1 < len(arguments) else "")
        if word.partition("=")[0] == "--config" and path:
            with contextlib.suppress(UserError):  # the job itself will say what is wrong with it
                recipe = recipes.read_recipe(path, grid=True, search=True)
                parts = [recipe, *(part for part in recipe.values() if isinstance(part, Mapping))]
                return any(isinstance(part.get("scaling"), Mapping) and "workers" in part["scaling"] for part in parts)
    return False


def _asked(script: str, arguments: Sequence[str]) -> dict[str, Any]:
    command = [sys.executable, str(ROOT / "jobs" / f"{script}.py"), *arguments, "--dry-run", "--print-config"]
    print(f"checking the options of jobs/{script}.py ...", file=sys.stderr, flush=True)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 2:
        found = [line.strip() for line in done.stderr.splitlines() if line.startswith("  ")]
        raise UserError([Problem("", line) for line in found] or [Problem(script, done.stderr.strip())])
    if done.returncode:
        tail = "\n".join(done.stderr.strip().splitlines()[-LAST_LINES:])
        raise UserError.one(script, f"its own check ended with exit code {done.returncode}:\n{tail}")
    sys.stderr.write(done.stderr)  # warnings
    config = yaml.safe_load(done.stdout)
    if not isinstance(config, dict) or not {"name", "runs_dir"} <= config.keys():
        raise UserError.one(script, "is no job with a run directory; run it without the launcher")
    return config


def write_job(job: Job, folder: Path, name: str) -> Path:
    """Keep `job` in `folder`; returns the file with its options, for the script to read."""
    write_json(folder / f"{name}.job.json", {"script": job.script, "words": list(job.words)})
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(dict(job.config), sort_keys=False))
    return path


def read_job(folder: Path, name: str) -> Job:
    """What `write_job` kept."""
    kept = json.loads((folder / f"{name}.job.json").read_text())
    return Job(kept["script"], yaml.safe_load((folder / f"{name}.yaml").read_text()), tuple(kept["words"]))
