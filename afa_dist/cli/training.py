"""The two training jobs behind jobs/pretrain.py and jobs/finetune.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from afa_dist.cli import titles
from afa_dist.cli.arguments import Arguments
from afa_dist.cli.console import StageProgress, training_table
from afa_dist.cli.job import Resolve, parse_arguments, raise_any, resolve_stage, run_job, where_of
from afa_dist.cli.specification import build
from afa_dist.cli.words import counted, percent, say
from afa_dist.config import DataConfig, DiffusionRun, TrainingRun
from afa_dist.data.catalogue import DataSplits, load_splits
from afa_dist.diffusion.available import network_problems
from afa_dist.errors import Problem, UserError, collected
from afa_dist.runtime.cluster import preview, session
from afa_dist.runtime.launch import bring_up_to_date, complete_finished, launch
from afa_dist.runtime.placement import is_main_process, torchrun_size
from afa_dist.training.preflight import data_problems, directory_problems, init_problems, mixture, model_problems
from afa_dist.training.run_dir import RunDirectory


def main(cls: type[TrainingRun], stage: str, program: str, description: str, stages: tuple[str, ...] = ()) -> int:
    """Run a training job from the command line; returns the exit code."""
    return run(resolve_stage(cls, stage), parse_arguments(cls, program, description, stages), stage)


def run(resolve: Resolve[TrainingRun], arguments: Arguments, stage: str) -> int:
    """Run the training job that `arguments` come to; returns the exit code."""
    return run_job(
        resolve,
        arguments,
        check=check,
        check_partly=check_partly,
        dry_run=describe,
        execute=lambda run, splits: execute(run, splits, stage),
    )


def check(run: TrainingRun) -> DataSplits:
    """Load and check what `run` needs.

    Raises:
        UserError: all mistakes found.
    """
    problems: list[Problem] = []
    splits = None
    with collected(problems):
        splits = load_splits(run.data)
    problems.extend(directory_problems(run))
    if splits is not None:
        problems.extend(data_problems(run, splits))
        if isinstance(run, DiffusionRun):
            problems.extend(network_problems(run, splits))
        else:
            problems.extend(model_problems(run, splits))
            problems.extend(init_problems(run, splits))
    raise_any(problems)
    assert splits is not None
    return splits


def check_partly(values: Mapping[str, Any]) -> DataSplits | None:
    """Check the data of a run whose other sections have mistakes."""
    data = values.get("data", {})
    try:
        config = build(DataConfig, data if isinstance(data, Mapping) else {})
    except UserError:
        return None  # reported with the specification
    return load_splits(config)


def describe(run: TrainingRun, splits: DataSplits) -> None:
    """Say what would run, and where."""
    generated = f", {len(splits.generated)} generated images" if splits.generated is not None else ""
    say(f"data: {run.data.name}, {len(splits.train)} training, {len(splits.held_out)} held-out images{generated}")
    mixed = f", {percent(run.data.generated_fraction)} of each batch generated" if generated else ""
    say(f"steps: {mixture(run, splits).steps_per_epoch} an epoch, {total_steps(run, splits)} in all{mixed}")
    say(f"runs {preview(run.scaling)}")
    say(f"directory: {where_of(run)}")


def total_steps(run: TrainingRun, splits: DataSplits) -> int:
    return mixture(run, splits).steps_per_epoch * run.schedule.epochs


def execute(run: TrainingRun, splits: DataSplits, title: str) -> None:
    """Train and show what came out; a finished run is only shown."""
    directory = RunDirectory.of(run)
    total = total_steps(run, splits)
    if torchrun_size() == 1 and not directory.in_use():
        bring_up_to_date(run, splits, directory)
    elsewhere = run.mirrored_to is not None and torchrun_size() > 1  # it may be here on some machines only, or in part
    recorded = directory.read_json("summary.json") if not elsewhere else None
    if recorded and (recorded["steps"] == total or recorded["stopped_early"]):
        if is_main_process():
            say(f"{title}: already finished")
            complete_finished(run, directory)
            show(run, recorded)
        return
    with session(run.scaling, waits=True) as placement:
        if not is_main_process():
            launch(run, splits, placement, on_row=lambda row: None)
            return
        what = f"{run.data.name}, {titles.network_of(run)}, {counted(run.schedule.epochs, 'epoch')}, seed {run.seed}"
        say(f"{title}: {what}; {placement.describe()}; in {directory.place}")
        if steps := directory.checkpoints.steps():
            say(f"continues from the checkpoints there, last saved at step {steps[-1]}")
        with StageProgress(title, total=total) as progress:
            summary = launch(run, splits, placement, progress.on_row)
    show(run, summary)


def show(run: TrainingRun, summary: Mapping[str, Any]) -> None:
    """What a finished run left behind."""
    if summary["stopped_early"]:
        patience = run.validation.patience
        say(f"stopped early, at step {summary['steps']}: {patience} validations without a better one (validation.patience)")
    if set(summary["last"]) > {"step"}:
        say(training_table(summary))
    else:
        say("no held-out images (data.held_out 0): the last checkpoint counts as the best")
    say(f"run directory: {where_of(run)}")
