"""What a person sees of a search while it goes on."""

from __future__ import annotations

import time

from rich.progress import MofNCompleteColumn

from afa_dist.cli.console import Shown
from afa_dist.cli.words import counted, duration, percent
from afa_dist.tuning.parameters import Space, tell
from afa_dist.tuning.record import FAILED, FINISHED, PASSED, PRUNED, Trial
from afa_dist.tuning.search import Search


class SearchProgress(Shown):
    """How far a search is: a bar on a terminal, now and then a line in a log. A context manager, fed with `look`."""

    def __init__(self, search: Search) -> None:
        super().__init__("search", search.total, MofNCompleteColumn())
        self._ended_before = _ended(search)
        self._began = time.monotonic()

    def look(self, search: Search) -> None:
        """Show where `search` is."""
        state = search.state()
        words = f"{state['running']} running, {state[FINISHED]} finished"
        words += "".join(f", {state[name]} {name}" for name in (PRUNED, FAILED) if state[name])
        if state[FINISHED]:
            words += f"; front of {counted(state['front'], 'point')}, hypervolume {state['hypervolume']:.3f}"
        words += self._time_left(search)
        self._bar.update(self._task, completed=_ended(search), note=words)
        if self._due:
            self._line(f"{_ended(search)}/{search.total} trials; {words}")

    def _time_left(self, search: Search) -> str:
        done, left = _ended(search) - self._ended_before, search.total - _ended(search)
        if done < 2 or left <= 0:
            return ""
        return f", about {duration((time.monotonic() - self._began) / done * left)} left"


def describe_trial(trial: Trial, space: Space) -> str:
    """A line about a trial that has just begun, or ended."""
    options = ", ".join(f"{short_name(key, space)} {tell(trial.params[key])}" for key in space)
    if trial.state == FINISHED and trial.point:
        clean, robust = trial.point
        what = f"finished in {duration(trial.seconds)}: clean {percent(clean)}, robust {percent(robust)}"
        return f"trial {trial.name} {what} ({options})"
    if trial.state == PASSED:
        reached = f"clean {percent(trial.clean_acc or 0)}, robust {percent(trial.robust_acc or 0)}"
        return f"trial {trial.name} after {trial.epochs:g} epochs: {reached} ({options})"
    if trial.state in (PRUNED, FAILED):
        return f"trial {trial.name} {trial.state}: {trial.reason} ({options})"
    parent = trial.memory.get("parent")
    words = "begins" if trial.begun == 1 else "goes on"
    return f"trial {trial.name} {words}{f' where {parent:04} was' if parent is not None else ''}: {options}"


def short_name(key: str, space: Space) -> str:
    """The last part of an option's name, if it is the only one of the space that ends so."""
    last = key.rpartition(".")[2]
    return last if sum(other.rpartition(".")[2] == last for other in space) == 1 else key


def _ended(search: Search) -> int:
    return sum(trial.order >= 0 for trial in list(search.trials))
