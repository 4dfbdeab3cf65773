"""generate.py sample: a set of images from a diffusion model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from afa_dist.cli import recipes
from afa_dist.cli.arguments import Arguments, parse
from afa_dist.cli.image_sets import describe_shards, make_and_show
from afa_dist.cli.job import resolve_alone, run_job
from afa_dist.cli.words import counted, percent, say
from afa_dist.config import SampleRun
from afa_dist.errors import UserError
from afa_dist.runtime.sampling_checks import PreparedSampling, check

DESCRIPTION = "Draw a set of images from a diffusion model, class by class."


def main(words: Sequence[str], program: str) -> int:
    """Run the command; returns the exit code."""
    return run_job(
        resolve,
        parse(SampleRun, words, program=program, description=DESCRIPTION),
        check=check,
        check_partly=check_partly,
        dry_run=describe,
        execute=execute,
    )


def resolve(arguments: Arguments) -> tuple[type[SampleRun], dict[str, Any]]:
    """default < the images that the model was trained on < file < command line."""
    cls, values = resolve_alone(SampleRun)(arguments)
    return cls, with_trained_on(values)


def with_trained_on(values: Mapping[str, Any]) -> dict[str, Any]:
    """Lay `values` over the images recorded with the model."""
    from afa_dist.diffusion.available import diffusers_problems

    if any(diffusers_problems()) or not isinstance(values.get("model"), str):
        return dict(values)
    from afa_dist.diffusion.source import pipeline_folder, trained_on

    try:
        saved = trained_on(pipeline_folder(values["model"]))
    except UserError:
        return dict(values)  # reported by the check, with everything else
    return recipes.merge({"data": saved["data"]} if isinstance(saved.get("data"), Mapping) else {}, values)


def check_partly(values: Mapping[str, Any]) -> None:
    """Look for the model although other options are wrong."""
    from afa_dist.diffusion.available import diffusers_problems

    if isinstance(values.get("model"), str) and not any(diffusers_problems()):
        from afa_dist.diffusion.source import pipeline_folder

        pipeline_folder(values["model"])


def describe(run: SampleRun, prepared: PreparedSampling) -> None:
    """Say what would be drawn, and where."""
    drawn = prepared.candidates
    chosen = f", the best {percent(run.keep)} of {drawn} by {run.scorer}" if run.keep < 1 else ""
    say(f"model: {run.model} ({type(prepared.source.pipeline).__name__}), {counted(len(prepared.classes), 'class')}")
    say(f"images: {run.count}{chosen}")
    describe_shards(run, drawn)


def execute(run: SampleRun, prepared: PreparedSampling) -> None:
    """Draw and show what came out."""
    describe(run, prepared)
    make_and_show(run, prepared, "sample")
