"""The job behind jobs/evaluate.py."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import Any

from afa_dist.cli import recipes
from afa_dist.cli.arguments import Arguments
from afa_dist.cli.console import EvaluationProgress, accuracy_table
from afa_dist.cli.job import parse_arguments, raise_any, resolve_stage, run_job, where_of
from afa_dist.cli.specification import build
from afa_dist.cli.words import counted, say
from afa_dist.config import DataConfig, EvaluateRun
from afa_dist.config.fields import pixels
from afa_dist.data.catalogue import load_part
from afa_dist.errors import Problem, Stopped, UserError, collected
from afa_dist.evaluation.checked_file import DamagedOutcome
from afa_dist.evaluation.subject import is_foreign, load_subject, model_folder
from afa_dist.models.export import read_config
from afa_dist.report.report import report_of
from afa_dist.runtime.cluster import preview, session
from afa_dist.runtime.evaluate import evaluate, so_far
from afa_dist.runtime.evaluation_checks import Prepared, check


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
    if not isinstance(model, str) or not model or is_foreign(model):
        return dict(values)
    try:
        saved = read_config(model_folder(model))
    except UserError:
        return dict(values)  # reported by the check, with everything else
    return recipes.merge(recipes.real_alone({"data": saved["data"], "threat": saved["threat"]}), values)


def check_partly(values: Mapping[str, Any]) -> None:
    """Check model and data although other options are wrong."""
    problems: list[Problem] = []
    model, data = values.get("model"), values.get("data", {})
    if isinstance(model, str) and model:
        with collected(problems):
            load_subject(model)
    try:
        config = build(DataConfig, data if isinstance(data, Mapping) else {})
    except UserError:
        config = None  # reported with the specification
    if config is not None:
        with collected(problems):
            load_part(config, "test")
    raise_any(problems)


def describe(run: EvaluateRun, prepared: Prepared) -> None:
    """Say what would run, and where."""
    images = len(prepared.test)
    shards = -(-images // run.shard_size)
    share = f", of which {len(run.shards_of(shards))} in this start" if run.shard else ""
    say(f"model: {run.model if is_foreign(run.model) else model_folder(run.model)}")
    say(f"data: {images} {run.part} images of {run.data.name} in {counted(shards, 'shard')}{share}")
    trained = prepared.subject.config.get("threat")
    own = " (as it was trained; --threat.eps changes it)" if trained == dataclasses.asdict(run.threat) else ""
    say(f"threat: {run.threat.norm}, eps {pixels(run.threat.eps)}{own}; attacks: {', '.join(run.single_attacks) or 'none'}")
    say(f"runs {preview(run.scaling)}")
    say(f"directory: {where_of(run)}")


def execute(run: EvaluateRun, prepared: Prepared) -> None:
    """Evaluate and show the table; one that is stopped shows what it has finished on all images."""
    describe(run, prepared)
    try:
        summary = measure(run, prepared, "evaluate")
    except (Stopped, KeyboardInterrupt):
        with contextlib.suppress(DamagedOutcome):  # what is shown now is read again by the next start
            if not run.shard and (summary := so_far(run, prepared)):
                title = f"not finished; upper bounds. {evaluation_title(run, prepared)}"
                say(accuracy_table({run.model: summary}, title))
        raise
    if "shard" in summary:
        say(_share_words(run, summary, len(prepared.test)))
    else:
        show(run, prepared, summary)
        if path := report_of(run):
            say(f"report: {path}")
    say(f"run directory: {where_of(run)}")


def _share_words(run: EvaluateRun, done: Mapping[str, Any], images: int) -> str:
    """What a start with `shard` did, and what comes next."""
    if done["shards"]:
        first = f"{counted(done['shards'], 'shard')} of {done['of']} done by shard {run.shard}"
        return f"{first}; when all starts are done, the same command with --merge in place of --shard shows the result"
    parts = int(run.shard.partition("/")[2])
    what = f"nothing to do for shard {run.shard}: {images} images are {counted(done['of'], 'shard')} of {run.shard_size}"
    return f"{what}; --shard_size {-(-images // parts)} makes {parts}"


def show(run: EvaluateRun, prepared: Prepared, summary: Mapping[str, Any]) -> None:
    """Show a finished evaluation."""
    say(accuracy_table({run.model: summary}, evaluation_title(run, prepared)))
    for warning in summary["warnings"]:
        say(f"warning: {warning}")


def measure(run: EvaluateRun, prepared: Prepared, title: str) -> dict[str, Any]:
    """Evaluate with a progress bar; returns the summary."""
    with session(run.scaling, gpu_share=run.gpu_share) as placement, EvaluationProgress(title) as progress:
        return evaluate(run, prepared, placement, progress.show)


def evaluation_title(run: EvaluateRun, prepared: Prepared) -> str:
    threat = f"{run.threat.norm} eps {pixels(run.threat.eps)}"
    return f"{len(prepared.test)} {run.part} images of {run.data.name}, {threat}, accuracy in % [95 % interval]"
