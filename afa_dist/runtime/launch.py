"""From a checked run to its summary: picks the in-process twin or Ray, and records where it came from."""

from __future__ import annotations

import secrets
import warnings
from typing import Any

from afa_dist.config import FinetuneRun, TrainingRun
from afa_dist.config.scaling import batch_problems
from afa_dist.data.catalogue import DataSplits
from afa_dist.errors import UserError
from afa_dist.runtime import in_process
from afa_dist.runtime.placement import Placement, is_main_process, torchrun_size
from afa_dist.training.initial import initial_sha256
from afa_dist.training.mirror import restore
from afa_dist.training.provenance import provenance
from afa_dist.training.recorder import OnRow
from afa_dist.training.run_dir import RunDirectory


def launch(run: TrainingRun, splits: DataSplits, placement: Placement, on_row: OnRow) -> dict[str, Any]:
    """Create the run directory and train, inside the session that gave `placement`; returns the summary.

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
    if is_main_process():
        if run.checkpoint.mirror is not None:
            _restore(run, run.checkpoint.mirror, splits, directory)
        record = {"start": start, **provenance(run.seed, splits.fingerprint())}
        if isinstance(run, FinetuneRun) and run.init != "scratch":
            record["init_sha256"] = initial_sha256(run.init)
        directory.create(run, record)
    if placement.workers == 0:
        return in_process.fit(run, splits, directory, placement, on_row)
    from afa_dist.runtime import ray_train  # imports Ray, which must come after the settings of the session

    return ray_train.fit(run, splits, directory, placement, start, on_row)


def _restore(run: TrainingRun, mirror: str, splits: DataSplits, directory: RunDirectory) -> None:
    """Take over what the mirror has beyond this directory: it may be another machine's, or this one lost its disk."""
    step = restore(mirror, run.name, directory)
    if step is None:
        return
    if problems := [*directory.problems(run), *directory.data_problems(splits.fingerprint())]:
        raise UserError(problems)
    warnings.warn(f"{directory.path} was brought to step {step} from its mirror in {mirror}", stacklevel=2)
