"""From a plan to jobs in Slurm's queue, and to what is tried again of an array."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from submitit.core.utils import FailedSubmissionError, UncompletedJobError

from afa_dist.address import is_address
from afa_dist.config.fields import to_mapping
from afa_dist.errors import UserError
from afa_dist.files import write_json
from cluster.slurm.attempts import Limits
from cluster.slurm.batch import Executor, executor_of, prefix_of, python_of, ray_of
from cluster.slurm.commands import ask, cleaned, most_elements
from cluster.slurm.here import say
from cluster.slurm.jobs import Job, read_job, write_job
from cluster.slurm.planning import Planned
from cluster.slurm.request import Request
from cluster.slurm.store import Store, Submission
from cluster.slurm.task import Work

MERGE = "merge"

WAITING = "waiting.json"
"""In a submission's folder: for each job the jobs of the same submission that it waits for."""


class Submitter:
    """Submits the jobs of one plan; or, if it is only to show them, makes nothing."""

    def __init__(self, store: Store, request: Request, place: str, folder: Path, code: Path) -> None:
        self.store = store
        self.request = request
        self.place = place
        self.folder = folder
        self.code = code
        self.numbers: dict[str, str] = {}
        """The job, or jobs with ':' between them, that stand for what has been submitted, by its name in the plan."""
        self.jobs: dict[str, str] = {}

    def submit(self, planned: Sequence[Planned]) -> dict[str, str]:
        """Submit all; returns what each job is for, by its number. What was submitted is recorded whatever happens.

        Raises:
            UserError: Slurm refused one; those before it are taken back.
        """
        write_json(self.folder / "request.json", {"place": self.place, "request": to_mapping(self.request)})
        waiting: dict[str, list[str]] = {}
        try:
            for one in planned:
                config = write_job(one.job, self.folder, one.name)
                numbers = [self.numbers[name] for name in one.after]
                self._submit(one, config, depending([*filter(None, [self.request.after]), *numbers]))
                waiting[self.numbers[one.name]] = numbers
        except UserError:
            if self.jobs:
                ask("scancel", *self.jobs)
            raise
        finally:
            write_json(self.folder / WAITING, waiting)
            self._record(planned[-1].name)
        return self.jobs

    def retry(self, name: str, wanted: Sequence[int], again: int, own: str) -> int:
        """Submit some elements of an array of this submission again; whoever waits for the job `own` then waits for that.

        Returns an exit code. If this was begun before, it is not submitted twice: `own` may have been requeued meanwhile.
        """
        path = self.folder / f"retry-{name}-{again}.json"
        begun = json.loads(path.read_text()) if path.exists() else None
        if begun is None:
            write_json(path, {})
            works = self.elements(name, read_job(self.folder, name), self.folder / f"{name}.yaml", wanted)
            try:
                self.array(name, works, again=again)
            finally:
                self._record(name)
            write_json(path, {"number": self.numbers[name]})
        elif "number" not in begun:
            say("was interrupted while it submitted them; `status` shows what is in the queue. Not submitted twice")
            return 1
        else:
            self.numbers[name] = begun["number"]
        with self._waiting() as waiting:
            waiting[self.numbers[name]] = []
            for number, earlier in waiting.items():
                if own in earlier:
                    earlier[earlier.index(own)] = self.numbers[name]
                    ask("scontrol", "update", f"JobId={number}", f"Dependency={depending(earlier)}")
        return 0

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[dict[str, list[str]]]:
        """Who waits for whom, for one process at a time: two arrays of a chain may end at the same moment."""
        with (self.folder / "waiting.lock").open("w") as lock:
            fcntl.lockf(lock, fcntl.LOCK_EX)
            waiting: dict[str, list[str]] = json.loads((self.folder / WAITING).read_text())
            yield waiting
            write_json(self.folder / WAITING, waiting)

    def merge_command(self, name: str) -> list[str]:
        """What puts the parts of an array together, where a job of this submission runs."""
        work = self.work(Planned(name, read_job(self.folder, name)), self.folder / f"{name}.yaml", ("--merge", "true"))
        return [*work.prefix, *work.command]

    def _record(self, name: str) -> None:
        if self.jobs:
            at = time.strftime("%Y-%m-%dT%H:%M:%S%z")
            self.store.add(Submission(self.place, name, at, str(self.folder), self.jobs))

    def scripts(self, planned: Sequence[Planned]) -> list[tuple[str, str, tuple[str, ...]]]:
        """Name, batch script and command of each job of a plan, for people; nothing is made."""
        found = []
        for one in planned:
            script = self._script(one, ",".join(f"afterok:<{name}>" for name in one.after), one.array)
            found.append((one.name, script, self.work(one, self.folder / f"{one.name}.yaml").command))
        return found

    def trials(self, planned: Sequence[Planned]) -> dict[str, str]:
        """A batch script of each kind of job that a plan comes to, which waits for no other, for Slurm to look at."""
        merges = [Planned(f"{one.name}-{MERGE}", _NO_JOB, light=True) for one in planned if one.array]
        most = most_elements() if merges else 0
        return {one.name: self._script(one, "", min(one.array, most)) for one in [*planned, *merges]}

    def _script(self, one: Planned, after: str, elements: int) -> str:
        executor = self._executor(one, after)
        if elements:
            executor.parameters["map_count"] = elements
        return executor.script()

    def elements(self, name: str, job: Job, config: Path, wanted: Sequence[int]) -> list[Work]:
        """The works of some of an array's elements."""
        one = Planned(name, job, array=self.request.array)
        return [
            self.work(one, config, ("--shard", f"{number}/{self.request.array}"), state=f"{name}-{number}.state")
            for number in wanted
        ]

    def work(self, one: Planned, config: Path, more: tuple[str, ...] = (), state: str = "") -> Work:
        request = self.request
        python = python_of(request)
        place = one.job.place
        saved: tuple[str, ...] = ()
        if is_address(place):
            saved = (*prefix_of(request, self.folder, self.code), python, "-P", "-m", "cluster.slurm.saved", place)
        return Work(
            command=(
                python,
                str(self.code / "jobs" / f"{one.job.script}.py"),
                *one.job.words,
                "--config",
                str(config),
                *more,
            ),
            prefix=prefix_of(request, self.folder, self.code),
            ray=ray_of(request),
            cwd=str(Path.cwd()),
            folder=str(self.folder),
            place=place,
            saved_command=saved,
            nodes=self._nodes(one),
            tmp=request.tmp,
            signal_seconds=request.signal_seconds,
            drain_seconds=request.drain_seconds,
            limits=Limits(request.max_timeouts, request.max_preemptions, request.max_losses, request.max_idle),
            state=state or f"{one.name}.state",
        )

    def array(self, name: str, works: Sequence[Work], after: str = "", again: int = 0) -> None:
        """Submit elements, in arrays as long as this Slurm takes them, and what puts them together when all have ended."""
        numbers, most = [], most_elements()
        for first in range(0, len(works), most):
            part = works[first : first + most]
            executor = self._executor(Planned(name, _NO_JOB, array=len(works)), after)
            numbers.append(self._sent(executor, part, f"{name}, {len(part)} of {len(works)} elements"))
        command = (sys.executable, "-P", "-m", "cluster.slurm.finish", str(self.folder), name, str(again))
        finish = dataclasses.replace(
            works[0], command=command, prefix=(), state=f"{name}-{MERGE}.state", saved_command=(), nodes=1
        )
        executor = self._executor(Planned(f"{name}-{MERGE}", _NO_JOB, light=True), "afterany:" + ":".join(numbers))
        self.numbers[name] = self._sent(executor, [finish], f"{name}, {MERGE}")

    def _submit(self, one: Planned, config: Path, after: str) -> None:
        if one.array:
            self.array(one.name, self.elements(one.name, one.job, config, range(1, one.array + 1)), after)
        else:
            self.numbers[one.name] = self._sent(self._executor(one, after), [self.work(one, config)], one.name)

    def _executor(self, one: Planned, after: str) -> Executor:
        name = f"{self.folder.parent.name.rpartition('-')[0]}.{one.name}"
        nodes, gpus = self._nodes(one), not one.light
        return executor_of(self.request, self.folder, self.code, name, nodes=nodes, gpus=gpus, after=after)

    def _nodes(self, one: Planned) -> int:
        return 1 if one.array or one.light else self.request.nodes

    def _sent(self, executor: Executor, works: Sequence[Work], what: str) -> str:
        """Submit one job, or one array; returns its number."""
        try:
            if len(works) == 1:
                number = str(executor.submit(works[0]).job_id)
            else:
                with executor.batch():
                    jobs = [executor.submit(work) for work in works]
                number = str(jobs[0].job_id).partition("_")[0]
        except (FailedSubmissionError, UncompletedJobError) as error:
            lines = [cleaned(line) for line in str(error).splitlines() if "error" in line.lower()] or [str(error)]
            raise UserError.one("sbatch", "; ".join(lines)) from error
        self.jobs[number] = what
        return number


_NO_JOB = Job("", {})


def depending(numbers: Sequence[str]) -> str:
    """A dependency on jobs that must have ended well, as Slurm writes it."""
    return "afterok:" + ":".join(numbers) if numbers else ""


def read_request(folder: Path) -> tuple[str, dict[str, Any]]:
    """The run that a submission is of, and its request as plain values."""
    found = json.loads((folder / "request.json").read_text())
    return found["place"], found["request"]
