"""From a checked run to its summary: picks the in-process twin or Ray, and records where it came from."""

from __future__ import annotations

import contextlib
import secrets
import warnings
from typing import Any

from afa_dist.address import below, is_address
from afa_dist.config import FinetuneRun, TrainingRun
from afa_dist.config.scaling import batch_problems
from afa_dist.data.catalogue import DataSplits
from afa_dist.errors import TrainingError, UserError
from afa_dist.runtime import in_process
from afa_dist.runtime.placement import Placement, is_main_process, torchrun_size
from afa_dist.training.initial import initial_sha256
from afa_dist.training.lease import Lease
from afa_dist.training.mirroring import (
    brought_here,
    complete,
    is_complete,
    mirror_address,
    mirror_option,
    put_files,
    take_over,
)
from afa_dist.training.preflight import other_start_problems
from afa_dist.training.provenance import provenance
from afa_dist.training.recorder import OnRow
from afa_dist.training.run_dir import OTHERS_SECONDS, TROUBLES, RunDirectory
from afa_dist.training.warned import Source


def launch(run: TrainingRun, splits: DataSplits, placement: Placement, on_row: OnRow, stop: Source = str) -> dict[str, Any]:
    """Create the run directory and train, inside the session that gave `placement`; returns the summary.

    stop: gives the reason to save and stop, once there is one; asked in every step.

    Raises:
        UserError: the batch cannot be shared by the workers that the session found; nothing is written then.
        TrainingError: training could not go on.
    """
    workers = placement.workers or torchrun_size()
    problems = [] if run.scaling.elastic else list(batch_problems(run.schedule.batch_size, workers, workers))
    if problems:
        raise UserError(problems)
    directory = RunDirectory.of(run)
    start = secrets.token_hex(8)
    with contextlib.ExitStack() as stack:
        lost: Source = str
        if is_main_process():
            lost = _begin(run, splits, directory, start, stack)

        def over() -> str:
            return lost() or stop()

        if placement.workers == 0:
            return in_process.fit(run, splits, directory, placement, on_row, over)
        from afa_dist.runtime import ray_train  # imports Ray, which must come after the settings of the session

        try:
            return ray_train.fit(run, splits, directory, placement, start, on_row, over)
        finally:
            if is_address(run.runs_dir):
                _show_here(run, directory)


def _show_here(run: TrainingRun, directory: RunDirectory) -> None:
    """Bring what worker 0 wrote to this machine, and the troubles that were noted here there."""
    noted = directory.troubles()
    try:
        brought_here(below(run.runs_dir, run.name), checkpoints=False)
        directory.add_troubles(noted)
        put_files(run, directory, only=TROUBLES)
    except (OSError, TrainingError) as error:
        warnings.warn(str(error), stacklevel=2)


def complete_finished(run: TrainingRun, directory: RunDirectory) -> None:
    """Copy what the mirror of a finished run lacks, if there is one.

    Raises:
        UserError: another process works on it.
        TrainingError: it cannot be reached, or not be written to.
    """
    address = mirror_address(run)
    if address is not None and not is_complete(run, directory):
        with Lease(address, secrets.token_hex(8), mirror_option(run)):
            complete(run, directory)


def _begin(
    run: TrainingRun, splits: DataSplits, directory: RunDirectory, start: str, stack: contextlib.ExitStack
) -> Source:
    """Make the run this start's own, and record it; returns what tells that it no longer is."""
    lost: Source = str
    if address := mirror_address(run):
        lost = stack.enter_context(Lease(address, start, mirror_option(run), is_address(run.runs_dir))).loss
        bring_up_to_date(run, splits, directory)
    record = {"start": start, **provenance(run.seed, splits.fingerprint())}
    if isinstance(run, FinetuneRun) and run.init != "scratch":
        record["init_sha256"] = initial_sha256(run.init)
    directory.create(run, record)
    if is_address(run.runs_dir):
        put_files(run, directory)
    return lost


def bring_up_to_date(run: TrainingRun, splits: DataSplits, directory: RunDirectory) -> None:
    """Take over what the mirror has beyond this directory: it may be another machine's, or this one lost its disk.

    Raises:
        UserError: what is there now is not of this run.
        TrainingError: the mirror does not answer.
    """
    step = take_over(run, directory, OTHERS_SECONDS)
    if step is None and not is_address(run.runs_dir):
        return
    problems = [*directory.problems(run), *directory.data_problems(splits.fingerprint())]
    if isinstance(run, FinetuneRun):
        problems += other_start_problems(run)
    if problems:
        raise UserError(problems)
    if not is_address(run.runs_dir):
        warnings.warn(f"{directory.path} was brought to step {step} from its mirror in {run.mirrored_to}", stacklevel=2)
