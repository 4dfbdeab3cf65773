"""The job behind jobs/prepare_data.py."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

from afa_dist.address import without_options
from afa_dist.cli import looking
from afa_dist.cli.arguments import parse
from afa_dist.cli.console import EvaluationProgress
from afa_dist.cli.job import raise_any, resolve_alone, run_job
from afa_dist.cli.words import counted, say
from afa_dist.config.preparing import PrepareRun
from afa_dist.data.layout import layout_of
from afa_dist.data.preparing import KEPT
from afa_dist.data.sources.base import Source
from afa_dist.data.sources.find import open_source
from afa_dist.errors import Problem, UserError, collected
from afa_dist.memory import give_back_freed_memory
from afa_dist.runtime.cluster import preview, session
from afa_dist.runtime.placement import torchrun_size
from afa_dist.runtime.preparation import Preparation, begun_layout, begun_problems, dest_problems, finished
from afa_dist.runtime.prepare import prepare, scaling_of


def main(program: str, description: str) -> int:
    """Prepare, or look at a set, from the command line; returns the exit code."""
    if sys.argv[1:2] == ["inspect"]:
        return looking.main(sys.argv[2:], f"{program} inspect")
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
    digits = "--kind=digits" in argv or ("--kind", "digits") in itertools.pairwise(argv)
    names = ("--source", "--dest") if count != 1 else ("--dest",) if digits else ("--source",)
    named = [word for pair in zip(names, argv[:count], strict=False) for word in pair]
    return [*named, *argv[min(count, 2) :]]


def check(run: PrepareRun) -> Preparation:
    """Look at source and destination, of which this process keeps no memory.

    Raises:
        UserError: all mistakes.
    """
    give_back_freed_memory()
    dest = Path(run.dest).expanduser().resolve()
    problems: list[Problem] = []
    if torchrun_size() > 1:
        problems.append(Problem("workers", "files are shared out to Ray workers; start it without torchrun"))
    preparation, licence = None, ""
    with collected(problems):
        licence = _licence(run.licence)
    with collected(problems):
        source = open_source(run)
        problems += _label_problems(run, source)
        preparation = Preparation(run, source, begun_layout(layout_of(source, run), run, dest), dest, licence)
    if preparation is None or finished(preparation) is None:
        problems += dest_problems(dest)
    if preparation is not None and not problems:
        problems += begun_problems(preparation)
    raise_any(problems)
    assert preparation is not None
    return preparation


def _licence(given: str) -> str:
    if not given.startswith("@"):
        return given
    try:
        return Path(given[1:]).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError.one("licence", f"{given[1:]} cannot be read as text ({error})") from error


def _label_problems(run: PrepareRun, source: Source) -> list[Problem]:
    """Whether given names and labels fit."""
    if run.classes and run.classes != source.classes:
        return [Problem("classes", f"are given, but the source names {', '.join(source.classes[:10])}; leave it out")]
    return []


def describe(run: PrepareRun, prepared: Preparation) -> None:
    """Say what would be written."""
    source, layout = prepared.source, prepared.layout
    counts = ", ".join(f"{len(labels)} {split}" for split, labels in source.labels.items())
    place = without_options(run.source)
    say(f"{source.identity['kind']} {place}".rstrip() + f": {counts} images, {counted(len(source.classes), 'class')}")
    size = " x ".join(map(str, layout.shape)) if layout.shape else "JPEG, PNG and the like as they are"
    files = counted(sum(-(-len(labels) // layout.shard_size) for labels in source.labels.values()), "file")
    say(f"stored {layout.storage} ({size}) in {files} of {layout.form}, up to {layout.shard_size} images each")
    say(f"runs {preview(scaling_of(run))}; in {prepared.dest}")


def execute(run: PrepareRun, prepared: Preparation) -> None:
    """Prepare, with a bar."""
    describe(run, prepared)
    record = finished(prepared)
    if record is not None:
        say("all of it is there already")
    else:
        if begun := len(list((prepared.aside / KEPT).glob("*-of-*.json"))):
            say(f"goes on with what was begun: {counted(begun, 'file')} of it")
        with session(scaling_of(run)) as placement, EvaluationProgress("prepare") as progress:
            record = prepare(prepared, placement, progress.show)
    for split, part in record["splits"].items():
        least, most = min(part["per_class"]), max(part["per_class"])
        say(f"{split}: {part['images']} images, {least} to {most} of each class")
    say(f"all of it: {prepared.dest}")
    if set(record["splits"]) == {"train"}:
        say(f"train on them: --data.generated {run.dest} --data.generated_fraction 0.7")
    else:
        name = "prepared" if run.form == "arrow" else "parquet"
        say(f"train on them: --data.name {name} --data.path {run.dest}")
