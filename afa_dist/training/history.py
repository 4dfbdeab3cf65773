"""Who worked on a run: provenance.json has every start, and in each every time that workers began to train."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from afa_dist.errors import UserError
from afa_dist.files import write_json

PROVENANCE = "provenance.json"
MADE = ".made-here.json"


class History:
    """Of the run in the folder `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read_text(self, name: str) -> str:
        """What a file of this directory says; empty where there is none."""
        try:
            return (self.path / name).read_text()
        except FileNotFoundError:
            return ""

    def read_json(self, name: str) -> Any:
        """A JSON file of this directory, or None when there is none.

        Raises:
            UserError: it is damaged.
        """
        try:
            return json.loads((self.path / name).read_text())
        except FileNotFoundError:
            return None
        except ValueError as error:
            what = f"{self.path / name} is damaged ({str(error).splitlines()[0]}); put it right, or choose another name"
            raise UserError.one("name", what) from error

    def starts(self) -> list[dict[str, Any]]:
        """Provenance of every start of the run, in their order."""
        return list((self.read_json(PROVENANCE) or {"starts": []})["starts"])

    def add_starts(self, starts: Sequence[Mapping[str, Any]]) -> None:
        """Take in those of `starts`, made on other machines, that are not known here; they have trained nothing."""
        own = self.starts()
        if more := [start for start in starts if start.get("start") not in {known.get("start") for known in own}]:
            write_json(self.path / PROVENANCE, {"starts": [*own, *more]})

    def made_here(self) -> list[str]:
        """Tokens of the notes that `note_workers` made in this directory, not in another copy of it."""
        return list(self.read_json(MADE) or [])

    @property
    def run_id(self) -> str:
        """What this run's checkpoints are known by: the identity of its first start; empty where none was noted."""
        return str((self.starts() or [{}])[0].get("start", ""))

    def last_start(self) -> dict[str, Any]:
        """Provenance of the last start; empty where there was none.

        What it was started with is what its results are of: a start that would change that is refused if there are any.
        """
        return (self.starts() or [{}])[-1]

    def add_seconds(self, seconds: float) -> None:
        """Note that the present start has trained for `seconds` more."""
        if starts := self.starts():
            starts[-1]["seconds"] = round(starts[-1].get("seconds", 0.0) + seconds, 1)
            write_json(self.path / PROVENANCE, {"starts": starts})

    def note_workers(self, step: int, workers: int) -> None:
        """Note that from `step` on the present start computes with so many workers, and that it does so here."""
        if starts := self.starts():
            note = {"step": step, "workers": workers, "token": secrets.token_hex(8)}
            write_json(self.path / MADE, [*self.made_here(), note["token"]])
            starts[-1].setdefault("workers", []).append(note)
            write_json(self.path / PROVENANCE, {"starts": starts})

    def seconds(self) -> float:
        """Time trained in all starts together, as far as it was noted; steps repeated after a stop count twice."""
        return round(sum(start.get("seconds", 0.0) for start in self.starts()), 1)


def notes_in(starts: Sequence[Mapping[str, Any]]) -> list[str]:
    """The token of every time that workers began to train, in their order."""
    return [str(note.get("token", f"{start.get('start')}/{note}")) for start in starts for note in start.get("workers", [])]
