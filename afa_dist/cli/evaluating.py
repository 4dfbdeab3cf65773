"""The job behind jobs/evaluate.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from afa_dist.cli import recipes
from afa_dist.cli.arguments import Arguments
from afa_dist.cli.console import StageProgress, accuracy_table, out
from afa_dist.cli.job import parse_arguments, resolve_stage, run_job
from afa_dist.config import EvaluateRun
from afa_dist.data.image_set import ImageSet
from afa_dist.errors import UserError
from afa_dist.models.export import read_config
from afa_dist.runtime.evaluate import check, evaluate, model_folder
from afa_dist.runtime.placement import place
from afa_dist.training.run_dir import RunDirectory


def main(program: str, description: str) -> int:
    """Evaluate from the command line; returns the exit code."""
    return run_job(
        resolve,
        parse_arguments(EvaluateRun, program, description),
        check=check,
        partial_check=lambda values: None,
        dry_run=describe,
        execute=lambda run, test: execute(run, test) and None,
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


def describe(run: EvaluateRun, test: ImageSet) -> None:
    """Say what would run, and where."""
    out.print(f"model: {model_folder(run.model)}")
    out.print(f"data: {len(test)} test images of {run.data.name} in {-(-len(test) // run.shard_size)} shards")
    out.print(f"threat: {run.threat.norm}, eps {run.threat.eps:.4g}; attacks: {', '.join(run.attacks) or 'none'}")
    out.print(f"runs {place(run.scaling).describe()}")
    out.print(f"directory: {RunDirectory.of(run).path}")


def execute(run: EvaluateRun, test: ImageSet, title: str = "evaluate", *, table: bool = True) -> dict[str, Any]:
    """Evaluate and show the table; returns the summary."""
    with StageProgress(title, unit="shard") as progress:
        summary = evaluate(run, test, progress.on_part)
    if table:
        out.print(accuracy_table({run.model: summary}, evaluation_title(run)))
        out.print(f"run directory: {RunDirectory.of(run).path}")
    return summary


def evaluation_title(run: EvaluateRun) -> str:
    return f"test images of {run.data.name}, {run.threat.norm} eps {run.threat.eps:.4g}, accuracy in % [95 % interval]"
