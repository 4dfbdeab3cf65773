"""What a report is made of: models with their evaluation, analysis and training, found from the folders that are named."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from afa_dist.address import runs_root
from afa_dist.errors import Problem, TrainingError, UserError
from afa_dist.files import sha256
from afa_dist.report.evaluations import Evaluation, evaluation_in
from afa_dist.training.mirroring import brought_here
from afa_dist.training.run_dir import RunDirectory

SUMMARY, ANALYSIS = "evaluation/summary.json", "analysis/analysis.json"


@dataclasses.dataclass(frozen=True)
class Analysis:
    """A finished analysis."""

    directory: RunDirectory
    facts: Mapping[str, Any]

    @functools.cached_property
    def arrays(self) -> dict[str, torch.Tensor]:
        """The tensors of `arrays.safetensors`."""
        return load_file(self.directory.path / "analysis" / "arrays.safetensors")


@dataclasses.dataclass(frozen=True)
class Stage:
    """A training run: title, directory, metrics."""

    title: str
    directory: RunDirectory
    rows: list[dict[str, Any]]


@dataclasses.dataclass
class Entry:
    """One model of a report. Entries differ in the model, or in the evaluation of it. number: its place, which gives its
    colour."""

    title: str
    model_sha256: str
    evaluation: Evaluation | None = None
    analysis: Analysis | None = None
    stages: list[Stage] = dataclasses.field(default_factory=list)
    number: int = 0


def collect(places: list[str]) -> list[Entry]:
    """The models behind run directories of evaluations, analyses, training runs or pipelines.

    A training run brings the evaluations and the analysis of its weights that lie beside it; an evaluation brings the
    analysis.

    Raises:
        UserError: a place holds none of these; all of them together.
    """
    problems: list[Problem] = []
    entries: list[Entry] = []
    for place in places:
        try:
            entries.extend(_entries(brought_here(place, checkpoints=False), place))
        except UserError as error:
            problems.extend(error.problems)
        except (TrainingError, SafetensorError, OSError, ValueError, KeyError) as error:
            problems.append(Problem("runs", f"{place} cannot be read: {str(error).splitlines()[0]}"))
    if problems:
        raise UserError(problems)
    return _joined(entries)


def _entries(directory: RunDirectory, place: str) -> Iterator[Entry]:
    """The models of one place, without what lies elsewhere."""
    if (directory.path / SUMMARY).exists():
        yield _of_evaluation(directory)
    elif (directory.path / ANALYSIS).exists():
        facts = directory.read_json(ANALYSIS)
        yield Entry(facts["model"], facts["model_sha256"], analysis=Analysis(directory, facts))
    elif (directory.path / "evaluate").is_dir() and (directory.path / "summary.json").exists():
        found = {}
        for folder in sorted((directory.path / "evaluate").iterdir()):
            if (folder / SUMMARY).exists():
                entry = _of_evaluation(RunDirectory(folder))
                found[entry.model_sha256] = entry
        for title, summary in directory.read_json("summary.json").items():
            if summary["model_sha256"] in found:
                found[summary["model_sha256"]].title = title
                yield found[summary["model_sha256"]]
    elif (directory.path / "model" / "model.safetensors").exists():
        yield from _of_training(directory)
    else:
        what = "holds no finished evaluation, analysis, pipeline or fine-tuning run"
        if (directory.path / "evaluation").is_dir():
            what = "holds an evaluation that is not finished; repeat its command"
        if (directory.path / "trials").is_dir():
            what = f"is a search, whose page is {directory.path / 'report.html'}; to compare its models, name what is in "
            what += str(directory.path / "measured")
        raise UserError.one("runs", f"{place} {what}")


def _of_evaluation(directory: RunDirectory) -> Entry:
    evaluation = evaluation_in(directory, directory.place, "runs")
    summary = evaluation.summary
    entry = Entry(summary["model"], summary["model_sha256"], evaluation)
    entry.analysis = _analysis_beside(directory.path, entry.model_sha256)
    trained = runs_root(summary["model"])
    if (trained / "metrics.jsonl").exists():
        entry.stages = _stages(RunDirectory(trained))
        entry.analysis = entry.analysis or _analysis_beside(trained, entry.model_sha256)
    return entry


def _of_training(directory: RunDirectory) -> Iterator[Entry]:
    digest = sha256(directory.model / "model.safetensors")
    entry = Entry(directory.place, digest, None, _analysis_beside(directory.path, digest), _stages(directory))
    found = [folder for folder in _beside(directory.path, SUMMARY) if _read(folder / SUMMARY).get("model_sha256") == digest]
    yield from ([_of_evaluation(RunDirectory(folder)) for folder in found] or [entry])


def _stages(directory: RunDirectory) -> list[Stage]:
    """The run, after the pre-training that it started from."""
    stages = [Stage(directory.path.name, directory, directory.metrics())]
    before = str(directory.read_config().get("init", "scratch"))
    folder = runs_root(before) if before != "scratch" else None
    if folder is not None and (folder / "metrics.jsonl").exists():
        earlier = RunDirectory(folder)
        stages.insert(0, Stage(folder.name, earlier, earlier.metrics()))
    return stages


def _analysis_beside(path: Path, model_sha256: str) -> Analysis | None:
    for folder in _beside(path, ANALYSIS):
        facts = _read(folder / ANALYSIS)
        if facts.get("model_sha256") == model_sha256:
            return Analysis(RunDirectory(folder), facts)
    return None


def _beside(path: Path, name: str) -> list[Path]:
    """Run directories in the same folder, or in that of the pipeline around it, which hold the file `name`."""
    parents = [path.resolve().parent, path.resolve().parent.parent]
    return sorted({file.parents[1] for parent in parents for file in parent.glob(f"*/{name}")})


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _short(title: str) -> str:
    """Of a path, what tells it from others: the last two names."""
    path = title.rstrip("/")
    return "/".join(path.split("/")[-2:]) if path.count("/") > 1 else path


def _place(entry: Entry) -> Path | None:
    return entry.evaluation.directory.path.resolve() if entry.evaluation else None


def _joined(entries: list[Entry]) -> list[Entry]:
    """Each evaluation once; an analysis that was named goes to the entries of its model; titles differ."""
    kept: list[Entry] = []
    for entry in entries:
        if entry.evaluation is None and entry.analysis is not None and not entry.stages:
            others = [other for other in entries if other is not entry and other.model_sha256 == entry.model_sha256]
            for other in others:
                other.analysis = entry.analysis
            if others:
                continue
        if _place(entry) is None or _place(entry) not in map(_place, kept):
            kept.append(entry)
    for number, entry in enumerate(kept):
        entry.number, entry.title = number, _short(entry.title)
    titles = [entry.title for entry in kept]
    for entry in kept:
        if titles.count(entry.title) > 1 and entry.evaluation is not None:
            entry.title = f"{entry.title} ({entry.evaluation.directory.path.name})"
    return kept


def once(entries: Sequence[Entry]) -> list[Entry]:
    """Each model once: what several evaluations have in common is not shown for each."""
    return list({entry.model_sha256: entry for entry in reversed(entries)}.values())[::-1]
