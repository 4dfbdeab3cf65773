"""What is kept of a search: a file for each trial, from which everything else can be made again.

A search that is started again reads these files and is where it was: who proposes options draws from them alone. No file of
Ray's is read back; Ray keeps such states as pickles, which run code when they are loaded, and tie a search to one version.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from afa_dist.errors import UserError
from afa_dist.files import write_json
from afa_dist.tuning.front import Point
from afa_dist.tuning.parameters import Params

RUNNING, FINISHED, PRUNED, FAILED = "running", "finished", "pruned", "failed"
PASSED = "passed on"
"""Of a member of a population: the next generation has gone on from it, or from a better one."""

FILE = "trial.json"


@dataclasses.dataclass(kw_only=True)
class Trial:
    """number: from 0. state: running (begun, perhaps stopped with the search), finished, pruned or failed,
    or passed on (see `population`).

    order: its place among those that are no longer running, -1 while it is. rungs: accuracies where it was compared, by the
    number of the rung. clean_acc, robust_acc: on held-out images, of the checkpoint that it would be used with. memory:
    what its sampler noted with it. seconds: of training. epochs: of training, all stages together.
    """

    number: int
    params: Params
    state: str = RUNNING
    reason: str = ""
    order: int = -1
    rungs: dict[int, Point] = dataclasses.field(default_factory=dict)
    measures: dict[int, str] = dataclasses.field(default_factory=dict)
    """How these were measured: only accuracies of the same stage and attack are compared."""
    clean_acc: float | None = None
    robust_acc: float | None = None
    seconds: float = 0.0
    epochs: float = 0.0
    wall: float = 0.0
    """Seconds from its begin to its end, in the start in which it ended."""
    begun: int = 0
    """How often it was begun or continued."""
    ended_at: float = 0.0
    """Seconds of searching before it ended, those of earlier starts included."""
    memory: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.number:04}"

    @property
    def point(self) -> Point | None:
        """(clean, robust) of a finished trial."""
        if self.state != FINISHED or self.clean_acc is None or self.robust_acc is None:
            return None
        return self.clean_acc, self.robust_acc


class TrialStore:
    """The folder of all trials of a search; each has one of its own, with the runs of its stages in it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def folder(self, trial: Trial) -> Path:
        return self.path / trial.name

    def save(self, trial: Trial) -> None:
        """Write a trial's file, all of it or nothing."""
        folder = self.folder(trial)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / FILE, dataclasses.asdict(trial))

    def load(self) -> list[Trial]:
        """All trials, by their number.

        Raises:
            UserError: a file is damaged, or a number is missing.
        """
        trials = [_read(path) for path in sorted(self.path.glob(f"*/{FILE}"))]
        for number, trial in enumerate(trials):
            if trial.number != number:
                what = f"{self.path} lacks trial {number:04}; put its folder back, or choose another name"
                raise UserError.one("name", what)
        return trials


def _read(path: Path) -> Trial:
    try:
        values = json.loads(path.read_text())
        values["rungs"] = {int(rung): (point[0], point[1]) for rung, point in values["rungs"].items()}
        values["measures"] = {int(rung): str(measure) for rung, measure in values.get("measures", {}).items()}
        known = {field.name for field in dataclasses.fields(Trial)}
        trial = Trial(**{key: value for key, value in values.items() if key in known})
    except (ValueError, KeyError, TypeError, IndexError) as error:
        what = f"{path} is damaged ({str(error).splitlines()[0]}); put it right, or choose another name"
        raise UserError.one("name", what) from error
    if path.parent.name != trial.name:
        raise UserError.one("name", f"{path} is that of trial {trial.name}; put it right, or choose another name")
    return trial


def point_of(trial: Trial) -> Point:
    """The point of a trial that has one, as those of `finished` do."""
    assert trial.point is not None
    return trial.point


def ended(trials: Iterable[Trial]) -> list[Trial]:
    """Those that are no longer running, in the order in which they ended."""
    return sorted((trial for trial in trials if trial.order >= 0), key=lambda trial: trial.order)


def finished(trials: Iterable[Trial]) -> list[Trial]:
    """Those that have a point, in the order in which they ended."""
    return [trial for trial in ended(trials) if trial.point is not None]
