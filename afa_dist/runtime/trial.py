"""The life of one trial, in a process of Ray Tune: the stages of its pipeline, measured as they train.

Training is that of any other run: the same directories, checkpoints and refusals, so a trial can be looked at, resumed and
reported by itself. One worker trains here; more are an inner group of Ray Train.
"""

from __future__ import annotations

import dataclasses
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ray import tune

from afa_dist.address import runs_root
from afa_dist.config import RobustRun
from afa_dist.errors import Stopped, TrainingError, UserError
from afa_dist.runtime.board import TrialBoard, remove_left_groups
from afa_dist.runtime.launch import launch
from afa_dist.runtime.paths import absolute
from afa_dist.runtime.placement import Placement
from afa_dist.runtime.sharing import SharedImages, splits_of
from afa_dist.training.initial import take_over
from afa_dist.training.run_dir import PREDECESSOR_SECONDS, RunDirectory


@dataclasses.dataclass(frozen=True)
class Task:
    """What a process of a trial is told.

    search: identity of this start of the search. stages: the runs, in their order. offsets: see `Trials.offsets`. images:
    None where they are too large to be shared. placement: where one trial computes. record: the trial's file, as the driver
    sees it. until: epochs after which a member of a population is passed on, 0 = to the end. parent: run directory of the
    member that it goes on from, or None.
    """

    search: str
    number: int
    stages: Mapping[str, RobustRun]
    offsets: Mapping[str, tuple[float, float]]
    images: SharedImages | None
    fingerprint: str
    placement: Placement
    record: str = ""
    until: int = 0
    parent: str | None = None

    def __repr__(self) -> str:  # Ray writes it into names of folders
        return f"{self.number:04}"


def run_trial(config: dict[str, Any]) -> None:
    """Train `config["task"]`; all that happens is told to the search by `tune.report`. Ray begins it again if this process
    is lost; what it cannot go on from would only happen again, and is told.
    """
    task: Task = config["task"]
    course = _Course(task)
    try:
        course.report(**course.train())
    except Stopped as stopped:
        ended = "passed on" if course.passed_on else "pruned" if course.verdict else "stopped"
        if ended == "stopped" and not course.board.asked_to_stop():
            raise  # the run is no longer this process's own, or its node is taken away: it is begun again elsewhere
        clean, robust = course.point
        facts = {"clean_acc": clean, "robust_acc": robust, "seconds": course.seconds(), "epochs": course.epochs}
        course.report(kind=ended, reason=str(stopped), **facts)
    except (TrainingError, UserError) as error:
        course.report(kind="failed", reason=str(error))
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        course.report(kind="failed", reason=f"out of memory: {str(error).splitlines()[0] if str(error) else 'MemoryError'}")
    finally:
        course.board.close()


class _Course:
    """How far a trial is, and what it was told."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.verdict = ""
        """Why the search wants this trial to end."""
        self.epochs = 0.0
        self.point = (0.0, 0.0)
        """The last measurement."""
        self.passed_on = False
        self.board = TrialBoard(task.search, task.number)
        self._reporting = threading.Lock()

    def report(self, **event: Any) -> None:
        """Tell the search something; it has answered when this returns."""
        with self._reporting:
            tune.report({"number": self.task.number, **event})

    def train(self) -> dict[str, Any]:
        """All stages, those that are finished left out; returns what it came to."""
        summary: dict[str, Any] = {}
        _check_shared(self.task)
        for stage, run in self.task.stages.items():
            directory = RunDirectory.of(run)
            if self.task.placement.workers:
                remove_left_groups(directory.last_start().get("start", ""))  # its workers hold the directory too
            _wait_until_free(directory)
            self._retell(stage, directory)
            if not directory.finished():
                if reason := self.stop():
                    raise Stopped(reason)
                if self.task.parent is not None:
                    take_over(Path(self.task.parent), directory)
                launch(
                    run,
                    splits_of(run, self.task.images, self.task.fingerprint),
                    self.task.placement,
                    self._on_row(stage),
                    self.stop,
                )
            summary = directory.read_json("summary.json")
            self.epochs = self._at(stage, run.schedule.epochs)[1]
        best = summary["best"] or {}
        if "robust_acc" not in best:
            raise TrainingError("its last stage measured no robust accuracy, which trials are compared by")
        accuracies = {name: best[name] for name in ("clean_acc", "robust_acc")}
        return {"kind": "finished", **accuracies, "seconds": self.seconds(), "epochs": self.epochs}

    def stop(self) -> str:
        """Why this trial should stop now; empty if it should go on. Cheap: asked in every step."""
        return self.verdict or self.board.asked_to_stop()

    def seconds(self) -> float:
        """Time trained in all stages, in all starts."""
        return sum(RunDirectory.of(run).seconds() for run in self.task.stages.values())

    def _retell(self, stage: str, directory: RunDirectory) -> None:
        """What was measured before this process: the search may have been killed before it had heard of it."""
        newest = (directory.checkpoints.steps() or [0])[-1]
        for row in directory.metrics():
            if row["step"] <= newest:  # what comes after it is trained and told again
                self._tell(stage, row)

    def _on_row(self, stage: str) -> Callable[[Mapping[str, Any]], None]:
        return lambda row: self._tell(stage, row)

    def _tell(self, stage: str, row: Mapping[str, Any]) -> None:
        if row["phase"] != "validation" or "robust_acc" not in row or self.verdict:
            return
        progress, self.epochs = self._at(stage, row["epoch"])
        self.point = (row["clean_acc"], row["robust_acc"])
        run = self.task.stages[stage]
        measure = f"{stage}, PGD-{row.get('pgd_steps', run.validation.steps)}"
        self.report(kind="measured", progress=progress, epochs=self.epochs, point=self.point, measure=measure)
        self.verdict = self.board.verdict()
        if 0 < self.task.until <= self.epochs and not self.verdict:
            self.passed_on, self.verdict = True, "the end of its generation"

    def _at(self, stage: str, epoch: float) -> tuple[float, float]:
        """Progress on the scale of the rungs, and in epochs of all stages."""
        before, unit = self.task.offsets[stage]
        names = list(self.task.stages)
        earlier = sum(self.task.stages[name].schedule.epochs for name in names[: names.index(stage)])
        return before + unit * epoch, earlier + epoch


def everywhere(stages: Mapping[str, RobustRun]) -> dict[str, RobustRun]:
    """`stages` with paths that mean the same in every process."""
    return {
        stage: dataclasses.replace(absolute(run), runs_dir=str(runs_root(run.runs_dir).resolve()))
        for stage, run in stages.items()
    }


def _check_shared(task: Task) -> None:
    """
    Raises:
        TrainingError: this machine does not see the folder of the search.
    """
    if not Path(task.record).is_file():
        where = f"{Path(task.record).parent} on {socket.gethostname()} is not the folder that the driver sees"
        raise TrainingError(f"{where}; use a runs_dir that all nodes share")


def _wait_until_free(directory: RunDirectory) -> None:
    """A process of an earlier start may need a moment to vanish."""
    deadline = time.monotonic() + PREDECESSOR_SECONDS
    while directory.in_use() and time.monotonic() < deadline:
        time.sleep(0.2)


def _out_of_memory(error: BaseException) -> bool:
    words = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate memory")
    return isinstance(error, MemoryError) or any(word in str(error).lower() for word in words)
