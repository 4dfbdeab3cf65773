"""What a run does with its mirror: look before it starts, go on from it, complete it; bring runs here that lie elsewhere.

A run whose `runs_dir` is an address has its mirror there, and that is the run: the folder it is worked on in is a copy,
which may be old, or another run's.
"""

from __future__ import annotations

import contextlib
import secrets
import warnings
from collections.abc import Iterator

import pyarrow as pa

from afa_dist.address import below, has_password, is_address
from afa_dist.config import BaseRun
from afa_dist.errors import Problem, TrainingError, UserError
from afa_dist.files import exclusive
from afa_dist.training.mirror import Mirror
from afa_dist.training.run_dir import RunDirectory
from afa_dist.training.same_run import other_run_problems


def mirror_address(run: BaseRun) -> str | None:
    """Where the mirror of `run` lies; None if it has none."""
    return below(run.mirrored_to, run.name) if run.mirrored_to is not None else None


def mirror_problems(run: BaseRun) -> Iterator[Problem]:
    """Why the mirror of `run` cannot be used: no such kind of address, no answer, no right, another run in it."""
    address, option = mirror_address(run), mirror_option(run)
    if address is None:
        return
    if has_password(address):
        yield Problem(option, "holds a password, which would stand in config.yaml; give it by the environment")
        return
    import yaml  # here: a training loop alone does without it

    try:
        mirror = Mirror(address)
        if mirror.has_results():
            recorded = yaml.safe_load(mirror.read_text("config.yaml")) or {}
            yield from other_run_problems(recorded, run, mirror.place)
    except (OSError, ValueError, yaml.YAMLError, pa.ArrowException) as error:
        yield Problem(option, f"{run.mirrored_to} cannot be used: {words(error)}")


def mirror_option(run: BaseRun) -> str:
    """The option that a mirror comes from."""
    return "runs_dir" if is_address(run.runs_dir) else "checkpoint.mirror"


def take_over(run: BaseRun, directory: RunDirectory) -> int | None:
    """Bring the directory to where the mirror is, if that is further; returns the mirror's last step then.

    Raises:
        UserError: the mirror holds another run, and is but a copy.
        TrainingError: it does not answer.
    """
    address = mirror_address(run)
    if address is None or directory.in_use():
        return None
    with _answering(directory):
        mirror = Mirror(address)
        known = mirror.run_id()
        own = directory.run_id if directory.has_results() else ""
        if own and not known and is_address(run.runs_dir):
            what = f"{mirror.place} is empty; going on from its working copy {directory.path}"
            warnings.warn(f"{what} (to start over, remove that too)", stacklevel=3)
        elif own and known != own and is_address(run.runs_dir):
            _set_aside(directory)
            own = ""
        elif own and known and known != own:
            what = f"{mirror.place} mirrors another run than {directory.path} holds; choose another name or mirror"
            raise UserError.one("checkpoint.mirror", what)
        steps = mirror.steps()
        here = directory.checkpoints.steps() if own else []
        if own and (not steps or (here and here[-1] >= steps[-1])):
            directory.add_starts(mirror.starts())
            return None
        mirror.get_files(directory.path)
        for step in steps:
            if step not in here:
                mirror.get_checkpoint(step, directory.checkpoints)
    return steps[-1] if steps else None


def put_files(run: BaseRun, directory: RunDirectory) -> None:
    """Copy everything but checkpoints to the mirror, if there is one.

    Raises:
        TrainingError: it cannot be reached, or not be written to.
    """
    address = mirror_address(run)
    try:
        if address is not None:
            Mirror(address).put_files(directory.path)
    except (OSError, pa.ArrowException) as error:
        raise TrainingError(f"{run.mirrored_to} cannot be written to: {words(error)}") from error


def complete(run: BaseRun, directory: RunDirectory) -> None:
    """Bring the mirror, if there is one, to where the directory is.

    Raises:
        TrainingError: it cannot be reached, or not be written to.
    """
    address = mirror_address(run)
    if address is None:
        return
    try:
        Mirror(address).update(directory)
    except (OSError, pa.ArrowException) as error:
        what = f"the run is complete in {directory.path}, {run.mirrored_to} is not: {words(error)}"
        raise TrainingError(f"{what}. The same command copies the rest") from error


def brought_here(place: str, checkpoints: bool = True) -> RunDirectory:
    """The run directory at a path or an address; what lies at an address is copied here first, as far as it has changed.

    Raises:
        TrainingError: the address does not answer.
    """
    directory = RunDirectory.at(place)
    if not is_address(place):
        return directory
    if directory.in_use():
        return directory  # it is worked on here, and is further than its mirror
    directory.path.mkdir(parents=True, exist_ok=True)
    with _answering(directory), exclusive(directory.path / ".fetching"):  # other workers of this machine may want it too
        mirror = Mirror(place)
        mirror.get_files(directory.path, all_anew=False)
        here = set(directory.checkpoints.steps())
        for step in mirror.steps() if checkpoints else []:
            if step not in here:
                mirror.get_checkpoint(step, directory.checkpoints)
    return directory


@contextlib.contextmanager
def _answering(directory: RunDirectory) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise TrainingError(f"the mirror of {directory.place} cannot be read: {words(error)}") from error


def _set_aside(directory: RunDirectory) -> None:
    aside = directory.path.with_name(f"{directory.path.name}.{secrets.token_hex(4)}.old")
    directory.path.rename(aside)
    warnings.warn(f"{directory.place} is not the run that was worked on here; that is in {aside} now", stacklevel=3)


def words(error: Exception) -> str:
    """What an error says, in one line that is not endless: object stores quote their requests."""
    return " ".join(str(error).split())[:300]
