"""The job behind jobs/pipeline.py: the stages of a recipe, then what they reached."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from afa_dist.address import below
from afa_dist.cli import evaluating, recipes, training
from afa_dist.cli.arguments import Arguments
from afa_dist.cli.console import accuracy_table
from afa_dist.cli.job import parse_arguments, raise_any, run_job, where_of
from afa_dist.cli.titles import title_of
from afa_dist.cli.words import say
from afa_dist.config import DataConfig, EvaluateRun, PipelineRun, RobustRun
from afa_dist.data.catalogue import DataSplits, load_splits
from afa_dist.errors import Problem, TrainingError, collected
from afa_dist.report.report import report_of
from afa_dist.runtime.cluster import session
from afa_dist.runtime.evaluation_checks import check as check_evaluation
from afa_dist.runtime.placement import torchrun_size
from afa_dist.training.mirroring import brought_here, complete
from afa_dist.training.preflight import data_problems, directory_problems, init_problems, model_problems, own_problems
from afa_dist.training.run_dir import RunDirectory
from afa_dist.training.same_run import same_place


def main(program: str, description: str) -> int:
    """Run the pipeline from the command line; returns the exit code."""
    return run_job(
        resolve,
        parse_arguments(PipelineRun, program, description),
        check=check,
        check_partly=check_partly,
        dry_run=describe,
        execute=execute,
    )


def resolve(arguments: Arguments) -> tuple[type[PipelineRun], dict[str, Any]]:
    """Options of all stages, from a recipe file and the command line."""
    recipe = recipes.read_recipe(arguments.config) if arguments.config else {}
    return PipelineRun, stage_values(recipe, recipes.nest(arguments.overrides))


def stage_values(recipe: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Options of all stages. A classifier without pre-training is trained from scratch, the baseline on clean images,
    unless told otherwise; the evaluation takes images and threat model from the training."""
    values = recipes.for_pipeline(recipe, overrides)
    if "pretrain" in values:
        raise_any(_chained_by_hand(overrides))
    else:
        values["finetune"] = recipes.merge({"mode": "full"}, values["finetune"])
    if "baseline" in values:
        values["baseline"] = recipes.merge({"mode": "full", "objective": "ce"}, values["baseline"])
    attack = values["finetune"].get("attack", {})
    threat = {key: attack[key] for key in ("norm", "eps") if isinstance(attack, Mapping) and key in attack}
    saved = {"data": values["finetune"].get("data", {}), "threat": threat}
    values["evaluate"] = recipes.merge(recipes.real_alone(saved), values["evaluate"])
    return values


def _chained_by_hand(overrides: Mapping[str, Any]) -> Iterator[Problem]:
    for stage, option in (("finetune", "init"), ("evaluate", "model")):
        for place, values in ((option, overrides), (f"{stage}.{option}", overrides.get(stage, {}))):
            if isinstance(values.get(option), str):
                yield Problem(place, f"is set by the pipeline, which goes from stage to stage; use jobs/{stage}.py")


def check(run: PipelineRun, loaded: dict[DataConfig, DataSplits] | None = None) -> dict[DataConfig, DataSplits]:
    """Load the data of all stages and check them against each other; what is in `loaded` is not read again.

    Raises:
        UserError: all mistakes of all stages.
    """
    problems: list[Problem] = []
    if torchrun_size() > 1:
        problems.append(Problem("scaling.workers", "the pipeline takes Ray workers; start it without torchrun"))
    if run.pretrain is not None and run.pretrain.model != run.finetune.model:
        problems.append(Problem("finetune.model", "differs from pretrain.model; fine-tuning builds on its weights"))
    if run.pretrain is not None and not same_place(run.finetune.init, below(run.pretrain.runs_dir, run.pretrain.name)):
        what = f"{run.finetune.init} is not the pre-training of this pipeline; leave it out, or leave out pretrain"
        problems.append(Problem("finetune.init", what))
    splits = {} if loaded is None else loaded
    for data in dict.fromkeys([*(stage.data for stage in stages_of(run).values()), run.evaluate.data]):
        with collected(problems):
            if data not in splits:
                splits[data] = load_splits(data)
    if run.pretrain is not None:
        with contextlib.suppress(TrainingError):  # what does not answer is reported below
            brought_here(below(run.pretrain.runs_dir, run.pretrain.name), checkpoints=False)
    for stage, training_run in stages_of(run).items():
        if stage == "finetune" and run.pretrain is not None and not RunDirectory.of(run.pretrain).finished():
            # What it starts from is still to be made.
            found = [*own_problems(training_run)]
        else:
            found = [*directory_problems(training_run)]
            if training_run.data in splits:
                found.extend(init_problems(training_run, splits[training_run.data]))
        if training_run.data in splits:
            found.extend(data_problems(training_run, splits[training_run.data]))
            found.extend(model_problems(training_run, splits[training_run.data]))
        problems.extend(problem.under(stage) for problem in found)
    if {run.finetune.data, run.evaluate.data} <= splits.keys():
        tested, trained = splits[run.evaluate.data].test, splits[run.finetune.data].train
        if tested.shape != trained.shape or tested.classes != trained.classes:
            problems.append(Problem("evaluate.data", "has images of another size or other classes than finetune.data"))
    for stage in models_of(run).values():
        evaluation = evaluation_of(run, stage)
        problems.extend(problem.under("evaluate") for problem in own_problems(evaluation))
    raise_any(problems)
    return splits


def stages_of(run: PipelineRun) -> dict[str, RobustRun]:
    """The training stages there are, in their order."""
    stages = {"pretrain": run.pretrain, "finetune": run.finetune, "baseline": run.baseline}
    return {stage: training_run for stage, training_run in stages.items() if training_run is not None}


def models_of(run: PipelineRun) -> dict[str, str]:
    """Rows of the final table, and the stage each model comes from."""
    models = {title_of(run.finetune, run.pretrain): "finetune"}
    if run.baseline is not None:
        title = title_of(run.baseline)
        models[title if title not in models else f"{title} (baseline)"] = "baseline"
    return models


def check_partly(values: Mapping[str, Any]) -> None:
    """Check the data of all stages although options elsewhere are wrong."""
    problems: list[Problem] = []
    for stage in recipes.STAGES:
        with collected(problems):
            training.check_partly(values.get(stage, {}))
    raise_any(problems)


def describe(run: PipelineRun, splits: Mapping[DataConfig, DataSplits]) -> None:
    """Say what would run, and where."""
    for stage, training_run in stages_of(run).items():
        say(f"-- {stage}")
        training.describe(training_run, splits[training_run.data])


def execute(run: PipelineRun, splits: Mapping[DataConfig, DataSplits]) -> None:
    """All stages, then the models side by side; finished stages of an earlier start are not repeated."""
    results = {}
    with session(run.scaling, waits=True):  # one cluster for all stages
        for stage, training_run in stages_of(run).items():
            raise_any(problem.under(stage) for problem in directory_problems(training_run))  # with what is made by now
            training.execute(training_run, splits[training_run.data], stage)
        for title, stage in models_of(run).items():
            evaluation = evaluation_of(run, stage)
            prepared = check_evaluation(evaluation)
            results[title] = evaluating.measure(evaluation, prepared, f"evaluate {title}")
    root = RunDirectory.of(run)
    root.write_json("summary.json", results)
    path = report_of(run)
    complete(run, root)
    say(accuracy_table(results, evaluating.evaluation_title(run.evaluate, prepared)))
    if path:
        say(f"report: {path}")
    say(f"run directory: {where_of(run)}")


def evaluation_of(run: PipelineRun, stage: str) -> EvaluateRun:
    """The evaluation of the model that `stage` trained."""
    name = f"{run.name}/evaluate/{stage}"
    return dataclasses.replace(run.evaluate, model=below(run.runs_dir, run.name, stage), name=name)


if __name__ == "__main__":  # a grid starts its pipelines so, wherever it was started from
    sys.exit(main("pipeline.py", "The stages of one recipe."))
