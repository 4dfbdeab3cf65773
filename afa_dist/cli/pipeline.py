"""The job behind jobs/pipeline.py: all stages, beside a model trained by cross-entropy alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from afa_dist.cli import evaluating, recipes, training
from afa_dist.cli.arguments import Arguments
from afa_dist.cli.console import accuracy_table, out
from afa_dist.cli.job import parse_arguments, run_job
from afa_dist.config import DataConfig, EvaluateRun, PipelineRun, TrainingRun
from afa_dist.data.catalogue import DataSplits, load_splits
from afa_dist.errors import Problem, UserError
from afa_dist.runtime.cluster import connected
from afa_dist.runtime.evaluate import check as check_evaluation
from afa_dist.runtime.placement import place
from afa_dist.training.preflight import training_problems
from afa_dist.training.run_dir import RunDirectory

MODELS = {"AFA + linear": "finetune", "cross-entropy": "baseline"}
"""Rows of the final table, and the stage each model comes from."""


def main(program: str, description: str) -> int:
    """Run the pipeline from the command line; returns the exit code."""
    return run_job(
        resolve,
        parse_arguments(PipelineRun, program, description),
        check=check,
        partial_check=check_data,
        dry_run=describe,
        execute=execute,
    )


def resolve(arguments: Arguments) -> tuple[type[PipelineRun], dict[str, Any]]:
    """Options of all stages; the baseline is trained from scratch on clean images, unless told otherwise."""
    recipe = recipes.read_yaml(arguments.config) if arguments.config else {}
    values = recipes.for_pipeline(recipe, recipes.nest(arguments.overrides))
    values["baseline"] = recipes.merge({"mode": "full", "objective": "ce"}, values["baseline"])
    attack = values["finetune"].get("attack", {})
    threat = {key: attack[key] for key in ("norm", "eps") if isinstance(attack, Mapping) and key in attack}
    saved = {"data": values["finetune"].get("data", {}), "threat": threat}
    values["evaluate"] = recipes.merge(saved, values["evaluate"])
    return PipelineRun, values


def check(run: PipelineRun) -> dict[DataConfig, DataSplits]:
    """Load the data of all stages and check them against each other.

    Raises:
        UserError: all mistakes of all stages.
    """
    problems: list[Problem] = []
    if run.pretrain.model != run.finetune.model:
        problems.append(Problem("finetune.model", "differs from pretrain.model; fine-tuning builds on its weights"))
    splits: dict[DataConfig, DataSplits] = {}
    for stage, training_run in stages_of(run).items():
        try:
            if training_run.data not in splits:
                splits[training_run.data] = load_splits(training_run.data)
            found = training_problems(training_run, splits[training_run.data])
            problems.extend(problem.under(stage) for problem in found)
        except UserError as error:
            problems.extend(error.problems)
    for stage in MODELS.values():
        evaluation = evaluation_of(run, stage)
        problems.extend(problem.under("evaluate") for problem in RunDirectory.of(evaluation).problems(evaluation))
    if problems:
        raise UserError(dict.fromkeys(problems))
    return splits


def stages_of(run: PipelineRun) -> dict[str, TrainingRun]:
    return {"pretrain": run.pretrain, "finetune": run.finetune, "baseline": run.baseline}


def check_data(values: Mapping[str, Any]) -> None:
    """Check the data of all stages although options elsewhere are wrong."""
    problems: list[Problem] = []
    for stage in ("pretrain", "finetune", "baseline"):
        try:
            training.check_data(values.get(stage, {}))
        except UserError as error:
            problems.extend(error.problems)
    if problems:
        raise UserError(dict.fromkeys(problems))


def describe(run: PipelineRun, splits: Mapping[DataConfig, DataSplits]) -> None:
    """Say what would run, and where."""
    for stage, training_run in stages_of(run).items():
        out.print(f"[bold]{stage}[/bold]")
        training.describe(training_run, splits[training_run.data])


def execute(run: PipelineRun, splits: Mapping[DataConfig, DataSplits]) -> None:
    """All stages, then both models side by side; finished stages of an earlier start are not repeated."""
    results = {}
    with connected(place(run.scaling)):  # one cluster for all stages
        for stage, training_run in stages_of(run).items():
            training.execute(training_run, splits[training_run.data], stage)
        for title, stage in MODELS.items():
            evaluation = evaluation_of(run, stage)
            test = check_evaluation(evaluation)
            results[title] = evaluating.execute(evaluation, test, f"evaluate {title}", table=False)
    root = RunDirectory.of(run)
    root.write_json("summary.json", results)
    out.print(accuracy_table(results, evaluating.evaluation_title(run.evaluate)))
    out.print(f"run directory: {root.path}")


def evaluation_of(run: PipelineRun, stage: str) -> EvaluateRun:
    """The evaluation of the model that `stage` trained."""
    name = f"{run.name}/evaluate/{stage}"
    return dataclasses.replace(run.evaluate, model=f"{run.runs_dir}/{run.name}/{stage}", name=name)
