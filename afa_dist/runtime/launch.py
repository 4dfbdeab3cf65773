"""From a checked run to its summary: picks the in-process twin or Ray, and records where it came from."""

from __future__ import annotations

from typing import Any

from afa_dist.config import TrainingRun
from afa_dist.data.catalogue import DataSplits
from afa_dist.runtime import in_process
from afa_dist.runtime.cluster import connected
from afa_dist.runtime.placement import Placement, place
from afa_dist.training.recorder import OnRow
from afa_dist.training.provenance import provenance
from afa_dist.training.run_dir import RunDirectory


def launch(run: TrainingRun, splits: DataSplits, on_row: OnRow, placement: Placement | None = None) -> dict[str, Any]:
    """Create the run directory and train; returns the summary."""
    placement = placement or place(run.scaling)
    directory = RunDirectory.of(run)
    if in_process.is_main_process():
        directory.create(run, provenance(run.seed, splits.fingerprint()))
    if placement.workers == 0:
        return in_process.fit(run, splits, directory, placement, on_row)
    with connected(placement):
        from afa_dist.runtime import ray_train  # imports Ray, which must come after the settings of its cluster

        return ray_train.fit(run, directory, placement, on_row)
