"""What became of what was submitted: a table, the log, the end of it."""

from __future__ import annotations

import contextlib
import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.table import Column, Table

from afa_dist.address import is_address
from afa_dist.cli.words import counted, describe_row, say
from afa_dist.errors import UserError
from cluster.slurm.attempts import WORDS
from cluster.slurm.commands import JobState, ask, states
from cluster.slurm.store import Store, Submission, place_of

LIVE = {"PENDING", "RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "STOPPED", "RESIZING"}


def status(store: Store, runs: Sequence[str]) -> int:
    """Show all submissions, or those of some runs, with where they stand."""
    submissions = chosen(store, runs)
    found = states(sorted({job for one in submissions for job in one.jobs}))
    table = Table(Column("run", overflow="fold"), "job", "for", "state", "time", "starts", "where it stands")
    for one in submissions:
        for number, (job, what) in enumerate(one.jobs.items()):
            own = _own(found, job)
            run = _short(one.place) if number == 0 else ""
            state, took = _state_words(own)
            table.add_row(
                run, job, what, state, took, _starts(one, job), _progress(one, job, own) if number == 0 else _why(own)
            )
    say(table)
    return 0


def cancel(store: Store, runs: Sequence[str]) -> int:
    """End the jobs of runs; each is told first, and saves."""
    submissions = chosen(store, runs)
    found = states(sorted({job for one in submissions for job in one.jobs}))
    live = [job for one in submissions for job in one.jobs if any(state.state in LIVE for state in _own(found, job))]
    if live:
        ask("scancel", *live)
    say(f"{counted(len(live), 'job')} told to end{': ' + ', '.join(live) if live else ''}; what was saved is kept")
    return 0


def logs(store: Store, run: str, follow: bool) -> int:
    """Print the log of a run's newest submission, all its jobs in turn; and go on until they have ended."""
    one = chosen(store, [run])[-1]
    reading = _Reading(Path(one.folder))
    while True:
        ended = not any(state.state in LIVE for job in one.jobs for state in _own(states([job]), job)) if follow else True
        reading.show(all_of_it=ended)
        if ended:
            break
        time.sleep(2)
    if not reading.shown:
        say(f"no log yet in {one.folder}; the job has not begun ({', '.join(one.jobs)})")
    return 0


class _Reading:
    """The logs of a submission's jobs as far as they were shown: whole lines, so that two files never share one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shown: dict[Path, int] = {}
        """Bytes of each file."""
        self._last: Path | None = None

    def show(self, all_of_it: bool) -> None:
        """Print what is new. all_of_it: with a last line that nothing ends."""
        for path in sorted(self.folder.glob("*_log.out")):
            with path.open("rb") as file:
                file.seek(self.shown.get(path, 0))
                new = file.read()
            new = new if all_of_it else new[: new.rfind(b"\n") + 1]
            if not new:
                continue
            if path != self._last:
                sys.stdout.write(f"==> {path} <==\n")
            text = new.decode(errors="replace")
            sys.stdout.write(text if text.endswith("\n") else f"{text}\n")
            sys.stdout.flush()
            self._last, self.shown[path] = path, self.shown.get(path, 0) + len(new)


def chosen(store: Store, runs: Sequence[str]) -> list[Submission]:
    """The submissions of runs, given by path, address, name or number of a job.

    Raises:
        UserError: nothing was submitted for one of them.
    """
    if not runs:
        return store.all()
    found: list[Submission] = []
    for run in runs:
        if re.fullmatch(r"\d+", run):
            own = [one for one in store.all() if run in one.jobs]
        else:
            own = store.of_run(place_of(run)) or store.of_run(place_of(f"runs/{run}"))
        if not own:
            raise UserError.one("RUN", f"nothing was submitted for {run!r}; `status` alone lists all that was")
        found += own
    return found


def _short(place: str) -> str:
    """A run as a person here would type it."""
    path = Path(place)
    return str(path.relative_to(Path.cwd())) if not is_address(place) and path.is_relative_to(Path.cwd()) else place


def _own(found: dict[str, JobState], job: str) -> list[JobState]:
    """The states of a job, or of all elements of an array."""
    return [state for key, state in found.items() if key == job or key.startswith(f"{job}_")]


def _state_words(own: Sequence[JobState]) -> tuple[str, str]:
    if not own:
        return "no longer known", ""
    if len(own) == 1:
        return own[0].state, f"{own[0].elapsed} of {own[0].limit}"
    counts = {name: sum(state.state == name for state in own) for name in dict.fromkeys(state.state for state in own)}
    return ", ".join(f"{count} {name}" for name, count in counts.items()), ""


def _why(own: Sequence[JobState]) -> str:
    return next((state.reason for state in own if state.state == "PENDING"), "")


def _starts(one: Submission, job: str) -> str:
    """How often a job began, and why it ended before."""
    paths = [path for form in ("", "_*") for path in Path(one.folder).glob(f"attempts-{job}{form}.jsonl")]
    events = [event for path in paths for event in _lines(path)]
    began = sum("began" in event for event in events)
    ends = [event["ended"] for event in events if event.get("ended") in WORDS]
    words = ", ".join(f"{counted(ends.count(kind), kind)}" for kind in dict.fromkeys(ends))
    return f"{began}{f' ({words})' if words else ''}" if began else ""


def _progress(one: Submission, job: str, own: Sequence[JobState]) -> str:
    """How far a run has come, by its directory."""
    if is_address(one.place):
        return _why(own)
    run = Path(one.place)
    ended = not any(state.state in LIVE for state in own)
    if ended and any((run / name).exists() for name in ("summary.json", "evaluation/summary.json")):
        return "finished"
    rows = list(_last_lines(run / "metrics.jsonl", 1))
    if rows and "step" in rows[0]:
        return f"step {rows[0]['step']}/{rows[0]['of']}  {describe_row(rows[0])}"
    return _why(own)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text().splitlines():
        with contextlib.suppress(ValueError):
            yield json.loads(line)


def _last_lines(path: Path, count: int) -> Iterator[dict[str, Any]]:
    with contextlib.suppress(OSError):
        for line in path.read_text().splitlines()[-count:]:
            with contextlib.suppress(ValueError):
                yield json.loads(line)
