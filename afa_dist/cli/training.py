"""The two training jobs behind jobs/pretrain.py and jobs/finetune.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from afa_dist.cli.console import StageProgress, out, training_table
from afa_dist.cli.job import parse_arguments, resolve_stage, run_job
from afa_dist.cli.specification import build
from afa_dist.config import DataConfig, TrainingRun
from afa_dist.data.catalogue import DataSplits, load_splits
from afa_dist.errors import UserError
from afa_dist.runtime.in_process import is_main_process
from afa_dist.runtime.launch import launch
from afa_dist.runtime.placement import place
from afa_dist.training.preflight import init_problems, training_problems
from afa_dist.training.run_dir import RunDirectory


def main(cls: type[TrainingRun], stage: str, program: str, description: str, stages: tuple[str, ...] = ()) -> int:
    """Run a training job from the command line; returns the exit code."""
    return run_job(
        resolve_stage(cls, stage),
        parse_arguments(cls, program, description, stages),
        check=check,
        partial_check=check_data,
        dry_run=describe,
        execute=lambda run, splits: execute(run, splits, stage) and None,
    )


def check(run: TrainingRun) -> DataSplits:
    """Load and check what `run` needs.

    Raises:
        UserError: all mistakes found.
    """
    splits = load_splits(run.data)
    if problems := [*training_problems(run, splits), *init_problems(run, splits)]:
        raise UserError(problems)
    return splits


def check_data(values: Mapping[str, Any]) -> None:
    """Check the data of a run whose other sections have mistakes."""
    data = values.get("data", {})
    if isinstance(data, Mapping):
        try:
            config = build(DataConfig, data)
        except UserError:
            return  # reported with the specification
        load_splits(config)


def describe(run: TrainingRun, splits: DataSplits) -> None:
    """Say what would run, and where."""
    batch = run.schedule.batch_size
    out.print(f"data: {run.data.name}, {len(splits.train)} training, {len(splits.held_out)} held-out images")
    out.print(f"steps: {len(splits.train) // batch} an epoch, {len(splits.train) // batch * run.schedule.epochs} in all")
    out.print(f"runs {place(run.scaling).describe()}")
    out.print(f"directory: {RunDirectory.of(run).path}")


def execute(run: TrainingRun, splits: DataSplits, title: str) -> dict[str, Any]:
    """Train and show what came out; returns the summary."""
    directory = RunDirectory.of(run)
    if not is_main_process():
        return launch(run, splits, on_row=lambda row: None)
    placement = place(run.scaling)
    out.print(f"[bold]{title}[/bold]: {run.data.name}, {run.model.arch}, seed {run.seed}, {placement.describe()}")
    if steps := directory.checkpoints.steps():
        out.print(f"continues from the checkpoints in {directory.path}, last saved at step {steps[-1]}")
    with StageProgress(title) as progress:
        summary = launch(run, splits, progress.on_row, placement)
    out.print(training_table(summary))
    out.print(f"run directory: {directory.path}")
    return summary
