"""generate.py sample: a set of images from a diffusion model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from afa_dist.cli import recipes
from afa_dist.cli.arguments import Arguments, parse
from afa_dist.cli.console import EvaluationProgress
from afa_dist.cli.job import resolve_alone, run_job, where_of
from afa_dist.cli.words import counted, percent, say
from afa_dist.config import SampleRun
from afa_dist.diffusion.selection import drawn_for
from afa_dist.errors import UserError
from afa_dist.runtime.cluster import preview, session
from afa_dist.runtime.sampling_checks import PreparedSampling, check
from afa_dist.training.run_dir import RunDirectory

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
    drawn = drawn_for(run.count, len(prepared.classes), run.keep)
    chosen = f", the best {percent(run.keep)} of {drawn} by {run.scorer}" if run.keep < 1 else ""
    say(f"model: {run.model} ({type(prepared.source.pipeline).__name__}), {counted(len(prepared.classes), 'class')}")
    shards = -(-drawn // run.shard_size)
    share = f", of which {len(run.shards_of(shards))} in this start" if run.shard else ""
    say(f"images: {run.count}{chosen}, in {counted(shards, 'shard')}{share}")
    say(f"runs {preview(run.scaling)}")
    say(f"directory: {where_of(run)}")


def execute(run: SampleRun, prepared: PreparedSampling) -> None:
    """Draw and show what came out."""
    from afa_dist.runtime.sample import sample

    describe(run, prepared)
    with session(run.scaling, gpu_share=run.gpu_share) as placement, EvaluationProgress("sample") as progress:
        summary = sample(run, prepared, placement, progress.show)
    if "shard" in summary:
        done = f"{counted(summary['shards'], 'shard')} of {summary['of']} done by shard {run.shard}"
        say(f"{done}; when all starts are done, the same command with --merge in place of --shard makes the set")
    else:
        show(run, summary)
    say(f"run directory: {where_of(run)}")


def show(run: SampleRun, summary: Mapping[str, Any]) -> None:
    """A finished set."""
    least, most = min(summary["per_class"]), max(summary["per_class"])
    say(f"{summary['images']} images of {summary['drawn']} drawn, {least} to {most} of each class")
    if "agreement" in summary:
        say(f"the scorer sees the class that was meant in {percent(summary['agreement'])} of all drawn")
    if summary.get("nearest"):
        say(nearest_table(summary["nearest"]))
    folder = RunDirectory.of(run).path
    say(f"look at them: {folder / 'samples.png'}")
    say(f"train on them: --data.generated {folder} --data.generated_fraction 0.7")


def nearest_table(nearest: Mapping[str, Any]) -> Table:
    """How close the images come to real ones."""
    title = f"nearest neighbours of {nearest['images']} images (root mean square difference of pixels, 0 to 1)"
    table = Table("among", "median", "of real images", "close to one", "copies", title=title, title_justify="left")
    for name, words in (("train", "training images"), ("test", "test images")):
        found = nearest[name]
        close = f"{percent(found['closer'])} (usual: 1 %)"
        table.add_row(words, f"{found['median']:.4f}", f"{found['usual_median']:.4f}", close, str(found["copies"]))
    return table
