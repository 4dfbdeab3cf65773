"""The job behind jobs/prepare_data.py."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from afa_dist.cli.arguments import parse
from afa_dist.cli.console import StageProgress
from afa_dist.cli.job import raise_any, resolve_alone, run_job
from afa_dist.cli.words import counted, say
from afa_dist.config.preparing import PrepareRun
from afa_dist.data.convert import class_names, convert, dest_problems
from afa_dist.data.npz import NpzImages
from afa_dist.errors import Problem, collected

Prepared = tuple[NpzImages, tuple[str, ...]]


def main(program: str, description: str) -> int:
    """Convert from the command line; returns the exit code."""
    return run_job(
        resolve_alone(PrepareRun),
        parse(PrepareRun, with_flags(sys.argv[1:]), program=f"{program} SOURCE DEST", description=description),
        check=check,
        check_partly=lambda values: None,
        dry_run=describe,
        execute=execute,
    )


def with_flags(argv: Sequence[str]) -> list[str]:
    """SOURCE and DEST in front of the options become values of --source and --dest."""
    count = next((number for number, word in enumerate(argv) if word.startswith("-")), len(argv))
    named = [word for pair in zip(("--source", "--dest"), argv[:count], strict=False) for word in pair]
    return [*named, *argv[min(count, 2) :]]


def check(run: PrepareRun) -> Prepared:
    """Look at source and destination.

    Raises:
        UserError: all mistakes.
    """
    problems: list[Problem] = list(dest_problems(Path(run.dest).expanduser().resolve()))
    with collected(problems):
        images = NpzImages(Path(run.source).expanduser())
        classes = class_names(images, run.classes)
    raise_any(problems)
    return images, classes


def describe(run: PrepareRun, prepared: Prepared) -> None:
    """Say what would be written."""
    images, classes = prepared
    size = " x ".join(map(str, images.shape))
    files = counted(-(-images.count // run.shard_size), "file")
    say(f"{run.source}: {images.count} images of {size}, {counted(len(classes), 'class')}; {files} in {run.dest}")


def execute(run: PrepareRun, prepared: Prepared) -> None:
    """Convert, with a bar."""
    describe(run, prepared)
    images, classes = prepared
    with StageProgress("prepare", "image", images.count) as progress:
        record = convert(images, Path(run.dest).expanduser().resolve(), classes, run.shard_size, progress.on_part)
    least, most = min(record["per_class"]), max(record["per_class"])
    say(f"{record['images']} images, {least} to {most} of each class, in {run.dest}")
    say(f"train on them: --data.generated {run.dest} --data.generated_fraction 0.7")
