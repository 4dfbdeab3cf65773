"""generate.py inspect: what a set of generated images is worth."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from afa_dist.address import is_address
from afa_dist.cli.arguments import Arguments, parse
from afa_dist.cli.console import EvaluationProgress
from afa_dist.cli.image_sets import with_recorded_data
from afa_dist.cli.job import raise_any, resolve_alone, run_job
from afa_dist.cli.words import counted, say
from afa_dist.config import InspectRun
from afa_dist.config.fields import to_mapping
from afa_dist.data.catalogue import DataSplits, load_splits
from afa_dist.data.generated import load_generated, record_of
from afa_dist.data.image_set import ImageSet
from afa_dist.diffusion.inspection import inspect
from afa_dist.errors import Problem, UserError, collected
from afa_dist.evaluation.subject import Subject, load_subject, subject_problems
from afa_dist.evaluation.summary import accuracy_words
from afa_dist.files import write_json
from afa_dist.models.networks import Classifier
from afa_dist.runtime.placement import cores
from afa_dist.training.run_dir import RunDirectory

DESCRIPTION = "See what a set of generated images is worth, by a classifier that had no part in it."

RESULT = "inspection.json"

LEAST = 2
"""Images that have a covariance."""


@dataclasses.dataclass(frozen=True)
class Prepared:
    """The set, the real images, and the classifier that looks at both. part: what part it had in the set, which it should
    not have had."""

    drawn: ImageSet
    real: ImageSet
    subject: Subject
    part: str = ""


def main(words: Sequence[str], program: str) -> int:
    """Run the command; returns the exit code."""
    return run_job(
        resolve,
        parse(InspectRun, words, program=program, description=DESCRIPTION),
        check=check,
        check_partly=lambda values: None,
        dry_run=describe,
        execute=execute,
    )


def resolve(arguments: Arguments) -> tuple[type[InspectRun], dict[str, Any]]:
    """default < the images recorded with the set < file < command line."""
    cls, values = resolve_alone(InspectRun)(arguments)
    return cls, with_recorded_data(values, "samples")


def check(run: InspectRun) -> Prepared:
    """Load everything.

    Raises:
        UserError: all mistakes.
    """
    problems: list[Problem] = []
    drawn, real, subject = None, None, None
    if is_address(run.samples):
        raise UserError.one("samples", "is an address; the figures are written beside the set, so give a folder")
    folder = Path(run.samples).expanduser()
    if folder.is_dir() and not os.access(folder, os.W_OK):
        problems.append(Problem("samples", f"{folder} cannot be written to, where {RESULT} is to be"))
    with collected(problems):
        splits = load_splits(run.data)
        drawn = load_generated(dataclasses.replace(run.data, generated=run.samples), splits.train)
        real = _unseen(splits)
    if drawn is not None and len(drawn) < LEAST:
        problems.append(Problem("samples", f"{run.samples} has {counted(len(drawn), 'image')}; distances need {LEAST}"))
    try:
        subject = load_subject(run.classifier)
    except UserError as error:
        problems += [Problem("classifier", problem.what) for problem in error.problems]
    if subject is not None and not isinstance(subject.net, Classifier):
        problems.append(Problem("classifier", f"{run.classifier} shows no features, since it is not one of ours"))
    elif subject is not None and real is not None:
        found = subject_problems(subject, run.classifier, real)
        problems += [Problem("classifier", problem.what.removeprefix("has ")) for problem in found]
    raise_any([Problem(problem.where.replace("data.generated", "samples"), problem.what) for problem in problems])
    assert drawn is not None and real is not None and subject is not None
    return Prepared(drawn, real, subject, _part(run, subject))


def _part(run: InspectRun, subject: Subject) -> str:
    """What part the classifier had in the set, as far as the records say."""
    made_by = record_of(run.samples).get("made_by")
    if isinstance(made_by, dict) and made_by.get("scorer_sha256") == subject.sha256:
        return "was the scorer of these images"
    data = RunDirectory(Path(run.classifier).expanduser()).read_config().get("data")
    trained_on = data.get("generated") if isinstance(data, dict) else None
    if trained_on and Path(trained_on).expanduser().resolve() == Path(run.samples).expanduser().resolve():
        return "was trained on these images"
    return ""


def _unseen(splits: DataSplits) -> ImageSet:
    """Real images that neither the model nor, with the same data, the classifier was trained on."""
    parts = (splits.held_out, splits.test)
    return dataclasses.replace(
        splits.test,
        images_NCHW=torch.cat([part.in_memory()[0] for part in parts]),
        labels_N=torch.cat([part.labels_N for part in parts]),
    )


def describe(run: InspectRun, prepared: Prepared) -> None:
    """Say what would be looked at."""
    say(f"{len(prepared.drawn)} images of {run.samples}, {len(prepared.real)} held-out and test images of {run.data.name}")
    if prepared.part:
        say(f"Warning: {run.classifier} {prepared.part}: what it sees in them says little of their worth.")


def execute(run: InspectRun, prepared: Prepared) -> None:
    """Look, show, and write it beside the set."""
    describe(run, prepared)
    torch.set_num_threads(run.threads or cores())
    net = prepared.subject.net.to("cuda" if torch.cuda.is_available() else "cpu")
    assert isinstance(net, Classifier)
    with EvaluationProgress("inspect") as progress:
        tick = progress.counting("images", len(prepared.drawn) + len(prepared.real))
        found = inspect(net, prepared.drawn, prepared.real, run.splits, run.seed, tick)
    path = Path(run.samples).expanduser() / RESULT
    record = {
        **found,
        "part_in_set": prepared.part,
        "classifier_sha256": prepared.subject.sha256,
        "options": to_mapping(run),
    }
    write_json(path, record)
    show(found)
    say(f"all figures: {path}")


def show(found: Mapping[str, Any]) -> None:
    """The figures, for people."""
    say(f"the classifier sees the class of the label in {accuracy_words(found['agreement'])} % of the images")
    say(f"(of the real ones: {accuracy_words(found['agreement_real'])} %)")
    frechet = found["frechet"]
    title = f"Fréchet distance of features, {frechet['images_each']} images each, {frechet['splits']} random splits"
    table = Table("between", "mean", "deviation", title=title, title_justify="left")
    for key, words in (("drawn_to_real", "drawn and real"), ("real_to_real", "real and other real")):
        table.add_row(words, f"{frechet[key]['mean']:.4g}", f"{frechet[key]['std']:.2g}")
    say(table)
