"""What must be right before an analysis begins: model, images, pre-training run, packages, and what the directory holds."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from afa_dist.analysis.cifar_c import CifarC
from afa_dist.analysis.parts import MADE_HERE
from afa_dist.analysis.pretrained import Pretrained, init_of, load_pretrained
from afa_dist.config import AnalyseRun
from afa_dist.config.analyse import ALL, NEED_FEATURES
from afa_dist.data.catalogue import load_part, load_splits
from afa_dist.data.image_set import ImageSet
from afa_dist.errors import Problem, TrainingError, UserError, collected
from afa_dist.evaluation.subject import Subject, is_foreign, load_subject, subject_problems
from afa_dist.models.build import DataShape
from afa_dist.models.networks import Classifier
from afa_dist.runtime.placement import torchrun_size
from afa_dist.training.mirroring import bring_here_problems, brought_here
from afa_dist.training.run_dir import RunDirectory

ANALYSIS_VERSION = 1
"""Counts changes of what the parts give for the same options."""

IDENTITY = "analysis/identity.json"

PACKAGES = {"corruptions": "kornia", "saliency": "captum"}
"""What a part needs beside the core."""


@dataclasses.dataclass(frozen=True)
class PreparedAnalysis:
    """A checked analysis. parts: what can be measured of what was asked for. notes: what is left out, in words."""

    subject: Subject
    test: ImageSet
    train: ImageSet | None
    pretrained: Pretrained | None
    published: CifarC | None
    parts: tuple[str, ...]
    notes: tuple[str, ...]


def check(run: AnalyseRun) -> PreparedAnalysis:
    """Load and check everything the analysis needs.

    Raises:
        UserError: all mistakes of model, data, pre-training run and packages together.
    """
    problems: list[Problem] = []
    notes: list[str] = []
    subject, test, train, pretrained, published = None, None, None, None, None
    if torchrun_size() > 1:
        problems.append(Problem("scaling.workers", "an analysis runs in one process; start it without torchrun"))
    with collected(problems):
        subject = load_subject(run.model)
    with collected(problems):
        test, train = _images(run)
    parts = _parts(run, subject, notes, problems)
    if subject is not None and test is not None:
        problems.extend(subject_problems(subject, run.model, test))
        with collected(problems):
            pretrained = _pretrained(run, test, train, notes) if "features" in parts else None
        with collected(problems):
            published = CifarC(Path(run.corruptions_path).expanduser(), test) if run.corruptions_path else None
        if not problems:
            prepared = PreparedAnalysis(subject, test, train, pretrained, published, parts, tuple(notes))
            problems.extend(_directory_problems(run, prepared))
    if problems or test is None or subject is None:
        raise UserError(dict.fromkeys(problems))
    return prepared


def _images(run: AnalyseRun) -> tuple[ImageSet, ImageSet | None]:
    """Test images, and training images if they are needed: what is fitted, without what is held out."""
    if "features" in run.asked and not is_foreign(run.model):
        splits = load_splits(run.data)
        return splits.test, splits.train
    return load_part(run.data, "test"), None


def _parts(run: AnalyseRun, subject: Subject | None, notes: list[str], problems: list[Problem]) -> tuple[str, ...]:
    """What can be measured of what was asked for. Who names a part gets it or hears why not."""
    parts = list(run.asked)
    if subject is not None and not isinstance(subject.net, Classifier):
        why = f"{run.model} shows no penultimate features, since it is not a network of afa-dist"
        if named := [part for part in NEED_FEATURES if part in run.parts]:
            problems.append(Problem("parts", f"{' and '.join(named)} cannot be measured: {why}"))
        elif ALL in run.parts:
            notes.append(f"{' and '.join(NEED_FEATURES)} are left out: {why}")
        parts = [part for part in parts if part not in NEED_FEATURES]
    for part, package in PACKAGES.items():
        if (
            part in parts
            and importlib.util.find_spec(package) is None
            and not (run.corruptions_path and package == "kornia")
        ):
            problems.append(Problem("parts", f"{part} needs {package}: pip install 'afa-dist[analysis]', or leave it out"))
    return tuple(parts)


def _pretrained(run: AnalyseRun, test: ImageSet, train: ImageSet | None, notes: list[str]) -> Pretrained | None:
    """The pre-training run that was named, or that the model's own run started from."""
    assert train is not None
    channels, height, width = test.shape
    shape = DataShape(channels, *train.pixel_statistics(), test.classes, (height, width))
    if run.pretrained:
        return load_pretrained(run.pretrained, shape)
    try:
        init = init_of(brought_here(run.model, checkpoints=False).read_config())
    except TrainingError as error:
        raise UserError.one("model", str(error)) from error
    if not init:
        return None
    try:
        return load_pretrained(init, shape)
    except UserError as error:
        notes.append(f"projected features are left out: {error.problems[0].what} (--pretrained names another place)")
        return None


def facts_of(run: AnalyseRun, prepared: PreparedAnalysis) -> dict[str, Any]:
    """All that every part depends on, beyond rounding: results with other facts are never mixed."""
    return {
        "model_sha256": prepared.subject.sha256,
        "data_fingerprint": prepared.test.fingerprint(),
        "threat": dataclasses.asdict(run.threat),
        "seed": run.seed,
        "images": run.images,
        "steps": run.steps,
        "batch_size": run.batch_size,
        "versions": {
            "afa-dist analysis": str(ANALYSIS_VERSION),
            "torch": torch.__version__.partition("+")[0],
            "torchvision": importlib.metadata.version("torchvision").partition("+")[0],
        },
    }


def own_facts(prepared: PreparedAnalysis) -> dict[str, dict[str, Any]]:
    """By part, what it alone depends on."""
    pretrained, train, published = prepared.pretrained, prepared.train, prepared.published
    return {
        "features": {
            "pretrained_sha256": pretrained.sha256 if pretrained else "",
            "train_fingerprint": train.fingerprint() if train is not None else "",
        },
        "corruptions": {"source": published.fingerprint() if published else MADE_HERE},
    }


def _directory_problems(run: AnalyseRun, prepared: PreparedAnalysis) -> Iterator[Problem]:
    if elsewhere := [*bring_here_problems(run)]:
        yield from elsewhere
        return
    directory = RunDirectory.of(run)
    for folder, what in (("evaluation", "an evaluation"), ("checkpoints", "a training run")):
        if (directory.path / folder).exists():
            yield Problem("name", f"{directory.place} holds {what}; choose another name for the analysis")
            return
    yield from directory.problems(run)
    recorded = directory.read_json(IDENTITY)
    now = facts_of(run, prepared)
    other = [words for key, words in _WORDS.items() if recorded and recorded.get(key) != now[key]]
    if other:
        yield Problem("name", f"{directory.place} holds an analysis with other {' and '.join(other)}; choose another name")


_WORDS = {"model_sha256": "weights", "data_fingerprint": "images", "versions": "versions of torch or afa-dist"}
