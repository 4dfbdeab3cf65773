"""generate.py select: the best of a set of images that is there, or all of it with other labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from afa_dist.cli.arguments import Arguments, parse
from afa_dist.cli.image_sets import describe_shards, make_and_show, with_recorded_data
from afa_dist.cli.job import resolve_alone, run_job
from afa_dist.cli.words import counted, percent, say
from afa_dist.config import SelectRun
from afa_dist.runtime.selecting_checks import PreparedSelection, check

DESCRIPTION = "Choose the best of a set of images by a classifier, or give all of them the labels that it sees."


def main(words: Sequence[str], program: str) -> int:
    """Run the command; returns the exit code."""
    return run_job(
        resolve,
        parse(SelectRun, words, program=program, description=DESCRIPTION),
        check=check,
        check_partly=lambda values: None,
        dry_run=describe,
        execute=execute,
    )


def resolve(arguments: Arguments) -> tuple[type[SelectRun], dict[str, Any]]:
    """default < the real images recorded with the set < file < command line."""
    cls, values = resolve_alone(SelectRun)(arguments)
    return cls, with_recorded_data(values, "images")


def describe(run: SelectRun, prepared: PreparedSelection) -> None:
    """Say what would be chosen, and where."""
    size = " x ".join(map(str, prepared.stored.shape[1:]))
    say(f"{run.images}: {len(prepared.stored)} images of {size}, {counted(len(prepared.classes), 'class')}")
    most = f", at most {run.count}" if run.count else ""
    share = "all" if run.keep == 1 else f"the best {percent(run.keep)} of each class"
    labels = f"labelled by {run.scorer}" if run.labels == "scorer" else f"scored by {run.scorer}"
    say(f"keeps {share}{most}, {labels}")
    describe_shards(run, prepared.candidates)


def execute(run: SelectRun, prepared: PreparedSelection) -> None:
    """Choose and show what came out."""
    describe(run, prepared)
    make_and_show(run, prepared, "select")
