"""What a run does with its mirror: look before it starts, go on from it, complete it; bring runs here that lie elsewhere.

A run whose `runs_dir` is an address has its mirror there, and that is the run: the folder it is worked on in is a copy,
which may be old, or another run's.
"""

from __future__ import annotations

import contextlib
import secrets
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from afa_dist.address import below, is_address
from afa_dist.config import BaseRun
from afa_dist.errors import Problem, TrainingError, UserError
from afa_dist.files import exclusive
from afa_dist.training.exchange import bring_down, copy_up
from afa_dist.training.lease import Claim
from afa_dist.training.mirror import CONFIG, SUMMARY, UNANSWERED, Mirror, words
from afa_dist.training.run_dir import RunDirectory
from afa_dist.training.same_run import other_run_problems


def mirror_address(run: BaseRun) -> str | None:
    """Where the mirror of `run` lies; None if it has none."""
    return below(run.mirrored_to, run.name) if run.mirrored_to is not None else None


def mirror_problems(run: BaseRun) -> Iterator[Problem]:
    """Why the mirror of `run` cannot be used: no such kind of address, no answer, no right, another run in it."""
    address = mirror_address(run)
    if address is None:
        return
    import yaml  # here: a training loop alone does without it

    try:
        mirror = Mirror(address)
        if (folder := mirror.local_folder()) is not None and _overlap(folder, RunDirectory.of(run).path):
            yield Problem(mirror_option(run), f"{run.mirrored_to} is where the run itself is; choose another place")
            return
        if mirror.has_results():
            recorded = yaml.safe_load(mirror.read_text(CONFIG))
            if isinstance(recorded, dict):
                yield from other_run_problems(recorded, run, mirror.place)
            else:
                yield Problem("name", f"{mirror.place} exists and holds no run; choose another name")
    except (*UNANSWERED, yaml.YAMLError) as error:
        yield Problem(mirror_option(run), f"{run.mirrored_to} cannot be used: {words(error)}")


def _overlap(one: Path, other: Path) -> bool:
    one, other = one.resolve(), other.resolve()
    return one.is_relative_to(other) or other.is_relative_to(one)


def mirror_option(run: BaseRun) -> str:
    """The option that a mirror comes from."""
    return "runs_dir" if is_address(run.runs_dir) else "checkpoint.mirror"


def take_over(run: BaseRun, directory: RunDirectory, patience_seconds: float) -> int | None:
    """Bring the directory to where the mirror is, if there is one and it is behind; returns the mirror's last step then.

    patience_seconds: how long to wait for another process of this machine that works on the directory.

    Raises:
        UserError: the mirror holds another run, and is but a copy; or the directory is in use.
        TrainingError: the mirror does not answer.
    """
    address = mirror_address(run)
    if address is None:
        return None
    with _answering(directory), directory.locked(patience_seconds):
        mirror = Mirror(address)
        known, own = mirror.run_id(), directory.run_id
        if not known:
            if is_address(run.runs_dir) and directory.checkpoints.steps():
                what = f"{mirror.place} is empty; going on from its working copy {directory.path}"
                warnings.warn(f"{what} (to start over, remove that too)", stacklevel=3)
            if not directory.has_results():
                mirror.get_files(directory.path)  # an evaluation: it has no identity
            return None
        if own and own != known:
            _give_way(run, directory, mirror)
        return bring_down(mirror, directory)


def _give_way(run: BaseRun, directory: RunDirectory, mirror: Mirror) -> None:
    """Another run than here is there: at an address that is the run, and a mirror is but a copy of what is here."""
    if is_address(run.runs_dir):
        _set_aside(directory)
    elif directory.has_results():
        what = f"{mirror.place} mirrors another run than {directory.path} holds; choose another name or mirror"
        raise UserError.one("checkpoint.mirror", what)


def put_files(run: BaseRun, directory: RunDirectory, only: str = "") -> None:
    """Copy everything but checkpoints and what says that the run is finished, or one file, to the mirror, if there is one.

    Raises:
        TrainingError: it cannot be reached, or not be written to.
    """
    address = mirror_address(run)
    try:
        if address is not None:
            Mirror(address).put_files(directory.path, only, without=(SUMMARY,))
    except UNANSWERED as error:
        raise TrainingError(f"{run.mirrored_to} cannot be written to: {words(error)}") from error


def complete(run: BaseRun, directory: RunDirectory, claim: Claim | None = None) -> None:
    """Bring the mirror, if there is one, to where the directory is.

    Raises:
        TrainingError: it cannot be reached, or not be written to; or another process works on it.
    """
    address = mirror_address(run)
    if address is None:
        return
    try:
        mirror = Mirror(address)
        damaged = copy_up(mirror, directory, check=partial(claim.check, mirror) if claim else lambda: None)
    except UNANSWERED as error:
        what = f"the run is complete in {directory.path}, {run.mirrored_to} is not: {words(error)}"
        raise TrainingError(f"{what}. The same command copies the rest") from error
    if damaged:
        which = ", ".join(map(str, damaged))
        raise TrainingError(f"checkpoints in {directory.path} are damaged and were not copied (steps {which})")


def is_complete(run: BaseRun, directory: RunDirectory) -> bool:
    """Whether the mirror, if there is one, has all that a finished run left here.

    Raises:
        TrainingError: it does not answer.
    """
    address = mirror_address(run)
    if address is None:
        return True
    with _answering(directory):
        mirror, store = Mirror(address), directory.checkpoints
        here = {step: store.manifest(step) for step in store.steps()}
        there = {step: mirror.manifest(step) for step in mirror.steps()}
        return here == there and mirror.read_text(SUMMARY) == directory.read_text(SUMMARY)


def brought_here(place: str, checkpoints: bool = True) -> RunDirectory:
    """The run directory at a path or an address; what lies at an address is copied here first, if it is behind.

    checkpoints: if not, the other files alone; what else there may be here is left as it is.

    Raises:
        TrainingError: the address does not answer.
    """
    directory = RunDirectory.at(place)
    if not is_address(place):
        return directory
    with _answering(directory):
        directory.path.parent.mkdir(parents=True, exist_ok=True)
        # Other workers of this machine may want it too.
        with exclusive(directory.path.with_name(f".{directory.path.name}.fetching")):
            if not directory.in_use():  # else it is worked on here, and is further than its mirror
                _fetch(Mirror(place), directory, checkpoints)
    return directory


def _fetch(mirror: Mirror, directory: RunDirectory, checkpoints: bool) -> None:
    known, own = mirror.run_id(), directory.run_id
    if own and known and own != known:
        _set_aside(directory)
    directory.path.mkdir(exist_ok=True)
    if known:
        bring_down(mirror, directory, checkpoints)
    else:
        mirror.get_files(directory.path, all_anew=False)  # a model, or an evaluation


@contextlib.contextmanager
def _answering(directory: RunDirectory) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except UNANSWERED as error:
        raise TrainingError(f"the mirror of {directory.place} cannot be read: {words(error)}") from error


def _set_aside(directory: RunDirectory) -> None:
    aside = directory.path.with_name(f"{directory.path.name}.{secrets.token_hex(4)}.old")
    directory.path.rename(aside)
    directory.path.mkdir()
    warnings.warn(f"{directory.place} is not the run that was worked on here; that is in {aside} now", stacklevel=4)


def bring_here_problems(run: BaseRun) -> Iterator[Problem]:
    """Bring the directory of a run without identity (an evaluation, an analysis) here, if it lies at an address; why that
    cannot be done."""
    if elsewhere := [*mirror_problems(run)]:
        yield from elsewhere
    elif is_address(run.runs_dir):
        try:
            brought_here(below(run.runs_dir, run.name))
        except TrainingError as error:
            yield Problem("runs_dir", str(error))


class Copier:
    """Copies files of a run directory to its mirror, if there is one, as they come. One that does not answer stops nothing:
    what is missing is copied by `complete`."""

    def __init__(self, run: BaseRun, directory: RunDirectory) -> None:
        self.directory = directory
        self.address = mirror_address(run)
        self._mirror: Mirror | None = None
        self._told = False

    def copy(self) -> None:
        """Copy what is new since the last time."""
        if self.address is None:
            return
        try:
            self._mirror = self._mirror or Mirror(self.address)
            self._mirror.put_files(self.directory.path, without=(SUMMARY,))
        except UNANSWERED as error:
            if not self._told:
                warnings.warn(f"{self._place} cannot be written to: {words(error)}; going on without", stacklevel=2)
            self._told = True

    @property
    def _place(self) -> str:
        return self._mirror.place if self._mirror else str(self.address)
