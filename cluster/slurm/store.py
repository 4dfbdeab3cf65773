"""What was submitted, in a folder of the user that others cannot enter: one folder a run, one line a submission.

submitit keeps what it submits as pickles, and whoever could write there could run code as this user on all nodes. So the
folder is refused if others could.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from afa_dist.address import is_address, runs_root, without_options
from afa_dist.errors import UserError
from cluster.slurm.closed import openness


@dataclasses.dataclass(frozen=True)
class Submission:
    """Jobs that were submitted together. jobs: what each is for, by its number in Slurm."""

    place: str
    job: str
    at: str
    folder: str
    jobs: Mapping[str, str]


class Store:
    """All submissions of one user."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def at(cls, folder: str) -> Store:
        """The store in `folder`, which is made if it is not there.

        Raises:
            UserError: it cannot be made, or others could write there.
        """
        path = Path(folder).expanduser().absolute()
        try:
            for one in [*reversed(path.parents), path]:  # mkdir(parents=True) gives the mode to the last one alone
                if not one.exists():
                    one.mkdir(exist_ok=True, mode=0o700)
        except OSError as error:
            raise UserError.one("folder", f"{path} cannot be made ({error.strerror}); choose another folder") from error
        if fault := openness(path):
            raise UserError.one("folder", f"whoever can write there can run code as you. {fault}")
        path.chmod(0o700)
        return cls(path)

    def run_folder(self, place: str) -> Path:
        """Where the submissions of the run at `place` are."""
        slug = re.sub(r"[^A-Za-z0-9._-]+", "-", without_options(place).rstrip("/"))[-48:].strip("-.") or "run"
        return self.path / f"{slug}-{hashlib.sha256(place.encode()).hexdigest()[:8]}"

    def new_folder(self, place: str) -> Path:
        """A folder for one more submission of the run at `place`."""
        folder = self.run_folder(place) / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        folder.mkdir(parents=True, mode=0o700)
        return folder

    def add(self, submission: Submission) -> None:
        with (self.run_folder(submission.place) / "submissions.jsonl").open("a") as file:
            file.write(json.dumps(dataclasses.asdict(submission)) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def of_run(self, place: str) -> list[Submission]:
        """The submissions of one run, the oldest first."""
        return list(_read(self.run_folder(place) / "submissions.jsonl"))

    def all(self) -> list[Submission]:
        """All submissions there are, the oldest first."""
        found = [one for path in self.path.glob("*/submissions.jsonl") for one in _read(path)]
        return sorted(found, key=lambda submission: submission.at)


def _read(path: Path) -> Iterator[Submission]:
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            values: dict[str, Any] = json.loads(line)
            yield Submission(**values)
        except (ValueError, TypeError):
            continue  # a line that was cut off


def place_of(name: str) -> str:
    """The run that a person means: an address as it is, a path from here, absolute."""
    return name if is_address(name) else str(runs_root(name).absolute())
