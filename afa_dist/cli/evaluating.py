"""The job behind jobs/evaluate.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from afa_dist.cli import recipes
from afa_dist.cli.arguments import Arguments
from afa_dist.cli.console import StageProgress, accuracy_table, pixels, say
from afa_dist.cli.job import collected, parse_arguments, raise_any, resolve_stage, run_job, where_of
from afa_dist.cli.specification import build
from afa_dist.config import DataConfig, EvaluateRun
from afa_dist.data.catalogue import load_part
from afa_dist.data.image_set import ImageSet
from afa_dist.errors import Problem, UserError
from afa_dist.models.export import load_classifier, read_config
from afa_dist.runtime.cluster import preview, session
from afa_dist.runtime.evaluate import check, evaluate, model_folder


def main(program: str, description: str) -> int:
    """Evaluate from the command line; returns the exit code."""
    return run_job(
        resolve,
        parse_arguments(EvaluateRun, program, description),
        check=check,
        check_partly=check_partly,
        dry_run=describe,
        execute=execute,
    )


def resolve(arguments: Arguments) -> tuple[type[EvaluateRun], dict[str, Any]]:
    """default < what the model was trained with < recipe < command line."""
    cls, values = resolve_stage(EvaluateRun, "evaluate")(arguments)
    return cls, with_saved(values)


def with_saved(values: Mapping[str, Any]) -> dict[str, Any]:
    """Lay `values` over the data and threat model recorded with the model."""
    model = values.get("model")
    if not isinstance(model, str) or not model:
        return dict(values)
    try:
        saved = read_config(model_folder(model))
    except UserError:
        return dict(values)  # reported by the check, with everything else
    return recipes.merge({"data": saved["data"], "threat": saved["threat"]}, values)


def check_partly(values: Mapping[str, Any]) -> None:
    """Check model and data although other options are wrong."""
    problems: list[Problem] = []
    model, data = values.get("model"), values.get("data", {})
    if isinstance(model, str) and model:
        with collected(problems):
            load_classifier(model_folder(model))
    try:
        config = build(DataConfig, data if isinstance(data, Mapping) else {})
    except UserError:
        config = None  # reported with the specification
    if config is not None:
        with collected(problems):
            load_part(config, "test")
    raise_any(problems)


def describe(run: EvaluateRun, test: ImageSet) -> None:
    """Say what would run, and where."""
    say(f"model: {model_folder(run.model)}")
    say(f"data: {len(test)} {run.part} images of {run.data.name} in {-(-len(test) // run.shard_size)} shards")
    say(f"threat: {run.threat.norm}, eps {pixels(run.threat.eps)}; attacks: {', '.join(run.attacks) or 'none'}")
    say(f"runs {preview(run.scaling)}")
    say(f"directory: {where_of(run)}")


def execute(run: EvaluateRun, test: ImageSet) -> None:
    """Evaluate and show the table."""
    summary = measure(run, test, "evaluate")
    say(accuracy_table({run.model: summary}, evaluation_title(run)))
    say(f"run directory: {where_of(run)}")


def measure(run: EvaluateRun, test: ImageSet, title: str) -> dict[str, Any]:
    """Evaluate with a progress bar; returns the summary."""
    with session(run.scaling) as placement, StageProgress(title, unit="shard") as progress:
        return evaluate(run, test, placement, progress.on_part, progress.on_attack)


def evaluation_title(run: EvaluateRun) -> str:
    threat = f"{run.threat.norm} eps {pixels(run.threat.eps)}"
    return f"{run.part} images of {run.data.name}, {threat}, accuracy in % [95 % interval]"
