"""A search on Ray Tune: its trials are Tune's, who comes next and who ends early is decided by `afa_dist.tuning.search`.

Tune's own state is written to a folder that is thrown away, and never read back: the search's files are enough to go on.
"""

from __future__ import annotations

import logging
import os
import secrets
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune import Callback
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.search import Searcher

from afa_dist.config import RobustRun
from afa_dist.data.catalogue import DataSplits
from afa_dist.errors import Stopped, TrainingError
from afa_dist.runtime.board import SearchBoard
from afa_dist.runtime.sharing import share
from afa_dist.runtime.trial import Task, everywhere, run_trial
from afa_dist.runtime.trial_room import TrialRoom
from afa_dist.training.warned import heed_signals
from afa_dist.tuning.record import FILE, Trial
from afa_dist.tuning.search import OVER_BUDGET, Search

POLL_SECONDS = 0.2

STOP_SECONDS = 30.0
"""How long trials may take to save after Ctrl-C."""

_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # trials have files of their own
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # nobody reads it
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "60",  # a process that is used again must have ended its trial
}

Stages = Callable[[Trial], tuple[Mapping[str, RobustRun], Mapping[str, tuple[float, float]]]]
"""The runs of a trial, and where each begins on the scale of the rungs (see `Trials.offsets`)."""

OnLook = Callable[[Search], None]


def run_search(search: Search, stages: Stages, splits: DataSplits, room: TrialRoom, on_look: OnLook) -> None:
    """Run trials until there are no more to run, inside the session that gave `room`.

    on_look: called a few times a second, to show how far it is.

    Raises:
        Stopped: this process was warned; trials have saved what they had.
        TrainingError: Ray gave up.
    """
    if not search.left:
        return
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # trials say themselves what became of them
    identity = secrets.token_hex(8)
    board = SearchBoard(identity)
    images = share(splits.parts())

    def task_of(trial: Trial) -> Task:
        made, offsets = stages(trial)
        runs = everywhere(made)
        return Task(
            search=identity,
            number=trial.number,
            stages=runs,
            offsets=dict(offsets),
            images=images,
            fingerprint=splits.fingerprint(),
            placement=room.placement,
            record=str((search.store.folder(trial) / FILE).resolve()),
            until=trial.memory.get("until", 0),
            parent=_parent_of(trial, search, list(runs)[-1]),
        )

    try:
        with heed_signals() as signalled, tempfile.TemporaryDirectory(prefix="afa-tune-") as folder:
            course = _Course(search, board, task_of)
            thread = _Thread(_tuner(course, room, Path(folder)))
            try:
                while thread.is_alive():
                    thread.join(POLL_SECONDS)
                    course.look(signalled())
                    on_look(search)
            except KeyboardInterrupt:
                course.look("Ctrl-C")
                thread.join(STOP_SECONDS)
                raise
            if thread.error is not None:
                why = _last_line(str(thread.error)) or type(thread.error).__name__
                raise TrainingError(f"Ray Tune gave up: {why}; the same command continues") from thread.error
            if search.stopping not in ("", OVER_BUDGET):
                raise Stopped(search.stopping)
    finally:
        board.clear()


def _parent_of(trial: Trial, search: Search, stage: str) -> str | None:
    """Run directory that a member of a population goes on from."""
    number = trial.memory.get("parent")
    return None if number is None else str((search.store.folder(search.trials[number]) / stage).resolve())


class _Course:
    """What Tune's thread and the main one share of a search; one at a time touches it."""

    def __init__(self, search: Search, board: SearchBoard, task_of: Callable[[Trial], Task]) -> None:
        self.search, self.board, self.task_of = search, board, task_of
        self.lock = threading.Lock()
        self.numbers: dict[str, int] = {}
        """Our numbers of Tune's trials."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles all that it is given, for a restart that never comes

    def look(self, signalled: str) -> None:
        """Stop everything if there was a warning, or time is up."""
        with self.lock:
            if signalled and self.search.stopping in ("", OVER_BUDGET):
                self.search.stopping = signalled
            if self.search.over_budget and not self.search.stopping:
                self.search.stopping = OVER_BUDGET
            if self.search.stopping:
                self.board.stop_all(self.search.stopping)

    def event(self, event: Mapping[str, Any]) -> None:
        """What a trial told."""
        with self.lock:
            search, number, kind = self.search, event["number"], event["kind"]
            if kind == "measured":
                why = search.measured(number, event["progress"], event["epochs"], event["point"], event["measure"])
                if why:
                    self.board.give_verdict(number, why)
            elif kind == "finished":
                search.finish(number, event["clean_acc"], event["robust_acc"], event)
            elif kind == "pruned":
                search.prune(number, event)
            elif kind == "passed on":
                search.pass_on(number, event["clean_acc"], event["robust_acc"], event)
            elif kind == "failed":
                search.fail(number, event["reason"])
            else:
                search.pause(number)


class _Suggestions(Searcher):  # type: ignore[misc]
    """Gives Tune the trials of a search."""

    def __init__(self, course: _Course) -> None:
        super().__init__()
        self._course = course

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        with self._course.lock:
            trial = self._course.search.next()
            if trial is None:
                return None if self._course.search.waits else str(Searcher.FINISHED)
            self._course.numbers[trial_id] = trial.number
        return {"task": self._course.task_of(trial)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: trials say themselves how they ended, and the callback hears of those that cannot."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the search's own files are its state."""


class _Events(Callback):  # type: ignore[misc]
    """Hands on what trials tell. Tune asks a trial to go on only after this has returned."""

    def __init__(self, course: _Course) -> None:
        self._course = course

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        if "kind" in result:
            self._course.event(result)

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """It was lost more often than allowed."""
        self._lost(trial)

    def on_step_end(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        """Tune does not tell of all that it gives up: not of those whose process ends between two trials."""
        for trial in trials:
            if trial.status == TuneTrial.ERROR:
                self._lost(trial)

    def _lost(self, trial: TuneTrial) -> None:
        with self._course.lock:
            search, number = self._course.search, self._course.numbers[trial.trial_id]
            if not any(other.number == number for other in search.running):
                return
            if search.stopping:  # whoever stops a search may end its processes too
                search.pause(number)
            else:
                search.fail(number, _lost_words(trial))


def _tuner(course: _Course, room: TrialRoom, folder: Path) -> tune.Tuner:
    search = course.search
    return tune.Tuner(
        tune.with_resources(run_trial, room.resources),
        tune_config=tune.TuneConfig(
            search_alg=_Suggestions(course),
            num_samples=search.left,
            max_concurrent_trials=room.at_once,
            reuse_actors=True,  # a process that has torch in it takes seconds to make
            trial_name_creator=lambda trial: f"trial_{trial.trial_id}",
            trial_dirname_creator=lambda trial: f"trial_{trial.trial_id}",
        ),
        run_config=tune.RunConfig(
            name="search",
            storage_path=str(folder),
            verbose=0,
            callbacks=[_Events(course)],
            failure_config=tune.FailureConfig(max_failures=search.config.max_failures),
        ),
    )


class _Thread(threading.Thread):
    """`Tuner.fit` beside the main thread, where Tune would take over Ctrl-C."""

    def __init__(self, tuner: tune.Tuner) -> None:
        super().__init__(name="afa-dist-tune", daemon=True)
        self._tuner = tuner
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._tuner.fit()
        except BaseException as error:
            self.error = error


def _lost_words(trial: TuneTrial) -> str:
    """How a trial was lost, in the last words of what Ray noted."""
    try:
        noted = Path(trial.error_file).read_text() if trial.error_file else ""
    except OSError:
        noted = ""
    return f"lost {trial.num_failures} times: {_last_line(noted) or 'Ray names no reason'}"


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
