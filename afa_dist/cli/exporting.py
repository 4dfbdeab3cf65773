"""The job behind jobs/export.py: a folder that can be published, with what was measured of the model in it."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from afa_dist.address import runs_root
from afa_dist.cli.job import parse_arguments, raise_any, resolve_alone, run_job
from afa_dist.cli.words import counted, percent, say
from afa_dist.config.exporting import ExportRun
from afa_dist.errors import Problem, TrainingError, UserError, collected
from afa_dist.evaluation.subject import is_foreign, model_folder
from afa_dist.files import sha256, write_aside, write_json, write_text
from afa_dist.models.export import CONFIG, WEIGHTS, load_classifier
from afa_dist.models.hub import EXPORT_FILES, require_hub, upload_folder
from afa_dist.models.robust_classifier import RobustClassifier
from afa_dist.report.evaluations import Evaluation, read_evaluation
from afa_dist.report.model_card import CardFacts, model_card
from afa_dist.report.recipe import Stage, stages_of, without_places
from afa_dist.report.robustbench import is_claim, nearest, place_in_robustbench, robustbench_record
from afa_dist.training.mirroring import brought_here


@dataclasses.dataclass(frozen=True)
class Source:
    """What is exported: where its files lie, the network in them, SHA-256 of its weights, how it was trained."""

    folder: Path
    model: RobustClassifier
    sha256: str
    stages: Sequence[Stage]


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A checked export."""

    source: Source
    evaluations: Sequence[Evaluation]


def main(program: str, description: str) -> int:
    """Export from the command line; returns the exit code."""
    return run_job(
        resolve_alone(ExportRun),
        parse_arguments(ExportRun, program, description),
        check=check,
        check_partly=check_partly,
        dry_run=describe,
        execute=execute,
    )


def check_partly(values: Mapping[str, Any]) -> None:
    """Look at the files although other options are wrong."""
    model, evaluations, folder = values.get("model"), values.get("evaluations"), values.get("folder")
    if isinstance(evaluations, str):
        evaluations = [part.strip() for part in evaluations.split(",") if part.strip()]
    places = [place for place in evaluations if isinstance(place, str)] if isinstance(evaluations, list) else []
    look(model if isinstance(model, str) else "", places, folder if isinstance(folder, str) else "")


def check(run: ExportRun) -> Prepared:
    """Read the model and its evaluations. Writes nothing.

    Raises:
        UserError: as `look`.
    """
    source, evaluations = look(run.model, run.evaluations, run.folder)
    assert source is not None
    return Prepared(source, evaluations)


def look(model: str, evaluations: Sequence[str], folder: str) -> tuple[Source | None, list[Evaluation]]:
    """What the places hold; an empty one is passed over.

    Raises:
        UserError: all mistakes found: files missing or damaged, evaluations unfinished or of other weights, a folder that
            holds something else.
    """
    problems: list[Problem] = []
    source: Source | None = None
    found: list[Evaluation] = []
    with collected(problems):
        require_hub()
    if model:
        with collected(problems):
            source = read_source(model)
    for place in evaluations:
        with collected(problems):
            evaluation = read_evaluation(place)
            if source is not None and evaluation.summary["model_sha256"] != source.sha256:
                raise UserError.one("evaluations", f"{place} measured other weights than those in {model}")
            found.append(evaluation)
    if folder and source is not None:
        with collected(problems):
            check_folder(runs_root(folder), source)
    raise_any(problems)
    return source, found


def read_source(model: str) -> Source:
    """
    Raises:
        UserError: `model` names none of ours, or one that is damaged.
    """
    if is_foreign(model):
        raise UserError.one("model", f"{model} is not a model of ours; give a fine-tuning run or an exported folder")
    folder = model_folder(model)
    exported = load_classifier(folder)
    try:
        directory = brought_here(model, checkpoints=False)
    except TrainingError as error:
        raise UserError.one("model", str(error)) from error
    stages = stages_of(directory) if directory.path != folder else []
    return Source(folder, RobustClassifier(exported.net, exported.config), sha256(folder / WEIGHTS), stages)


def check_folder(folder: Path, source: Source) -> None:
    """
    Raises:
        UserError: the folder holds something else than an export of the same weights, or cannot be written.
    """
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise UserError.one("folder", f"{there} is not a folder that can be written to; choose another one")
    if there != folder:
        return
    if folder.resolve() == source.folder.resolve():
        raise UserError.one("folder", f"{folder} is the model itself, which is kept as it is; choose another folder")
    # Hidden files are what a start that was killed left of files it was writing.
    if not [entry for entry in folder.iterdir() if not entry.name.startswith(".")]:
        return
    if not (folder / WEIGHTS).is_file():
        raise UserError.one("folder", f"{folder} holds something else than an exported model; choose another folder")
    if sha256(folder / WEIGHTS) != source.sha256:
        raise UserError.one("folder", f"{folder} holds a model with other weights; choose another folder")


def describe(run: ExportRun, prepared: Prepared) -> None:
    """Say what would be written."""
    say(f"model: {prepared.source.folder} (SHA-256 {prepared.source.sha256[:12]}...)")
    for evaluation in prepared.evaluations:
        lowest = min(entry["accuracy"] for _, entry in evaluation.rows())
        what = f"{counted(evaluation.images, 'image')} of {evaluation.data}, {evaluation.threat}"
        say(f"evaluation: {evaluation.place}: {what}, {percent(lowest)} stand; {evaluation.label}")
    say(f"folder: {runs_root(run.folder)} ({', '.join(EXPORT_FILES)})")
    if run.push_to_hub:
        say(f"hub: {run.push_to_hub}{' (private)' if run.private else ''}")


def execute(run: ExportRun, prepared: Prepared) -> None:
    """Write the folder, and put it on the hub if asked to."""
    describe(run, prepared)
    folder = runs_root(run.folder)
    write_export(folder, run, prepared)
    chosen = nearest(prepared.evaluations)
    note = "" if is_claim(chosen) else "; autoattack_acc is empty, and its footnote says why"
    say(f"robustbench.json goes to RobustBench as {place_in_robustbench(chosen)}{note} (docs/export.md)")
    if run.push_to_hub:
        address = upload_folder(folder, run.push_to_hub, EXPORT_FILES, token=None, private=run.private or None)
        say(f"on the hub: {address}")


def write_export(folder: Path, run: ExportRun, prepared: Prepared) -> None:
    """Write the files, each whole or not at all; weights first, as they are, byte by byte."""
    source, evaluations = prepared.source, prepared.evaluations
    title = run.title or folder.name
    config = {**source.model.config, "data": without_places({"data": source.model.config["data"]})["data"]}
    parameters = sum(parameter.numel() for parameter in source.model.parameters())
    facts = CardFacts(title, config, source.sha256, parameters, evaluations, source.stages)
    init = str(source.stages[-1].run.get("init", "")) if source.stages else ""
    card, record = model_card(run, facts), robustbench_record(run, title, config, evaluations, init)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / WEIGHTS).exists():
        write_aside(folder / WEIGHTS, lambda aside: shutil.copyfile(source.folder / WEIGHTS, aside))
    write_json(folder / CONFIG, config)
    write_text(folder / "README.md", card)
    write_json(folder / "robustbench.json", record)
