"""What must be right before a set of images is drawn: model, scorer, real images, and what the directory holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from afa_dist.config import SampleRun
from afa_dist.data.catalogue import DataSplits, load_splits
from afa_dist.data.image_set import ImageSet
from afa_dist.diffusion.available import diffusers_problems
from afa_dist.errors import Problem, UserError, collected
from afa_dist.evaluation.subject import Subject, load_subject, subject_problems
from afa_dist.runtime.placement import torchrun_size
from afa_dist.training.mirroring import bring_here_problems
from afa_dist.training.run_dir import RunDirectory

if TYPE_CHECKING:
    from afa_dist.diffusion.source import Source

SAMPLER_VERSION = 1
"""Counts changes of what our sampler draws for the same options."""

IDENTITY = "candidates/identity.json"


@dataclasses.dataclass(frozen=True)
class PreparedSampling:
    """A checked sampling: what is drawn from, the classes, what scores, and real images to compare with."""

    source: Source
    classes: tuple[str, ...]
    scorer: Subject | None
    real: DataSplits | None


def check(run: SampleRun) -> PreparedSampling:
    """Load and check everything.

    Raises:
        UserError: all mistakes together.
    """
    problems = [*diffusers_problems()]
    if torchrun_size() > 1:
        problems.append(Problem("scaling.workers", "drawing is shared by Ray workers; start it without torchrun"))
    source, scorer, real = None, None, None
    with collected(problems):
        source = _source(run)
    if run.scorer:
        with collected(problems):
            scorer = _scorer(run)
    if run.data is not None and run.nearest:
        with collected(problems):
            real = load_splits(run.data)
    if source is not None:
        classes = run.classes or tuple(source.trained_on.get("classes", ()))
        prepared = PreparedSampling(source, classes, scorer, real)
        problems.extend(_model_problems(run, prepared))
        if not problems:
            problems.extend(_directory_problems(run, prepared))
    if problems or source is None:
        raise UserError(problems)
    return prepared


def _source(run: SampleRun) -> Source:
    from afa_dist.diffusion.source import open_source  # needs diffusers

    return open_source(run.model)


def _scorer(run: SampleRun) -> Subject:
    try:
        return load_subject(run.scorer)
    except UserError as error:
        raise UserError([Problem("scorer", problem.what) for problem in error.problems]) from error


def _model_problems(run: SampleRun, prepared: PreparedSampling) -> Iterator[Problem]:
    from afa_dist.diffusion.sampler import pipeline_problems

    yield from pipeline_problems(prepared.source.pipeline, run)
    if not prepared.classes:
        yield Problem("classes", "are needed: the model does not say which it knows; name them in order, A,B,...")
        return
    trained = prepared.source.trained_on
    known = trained.get("classes", [])
    if known and list(prepared.classes) != known:
        yield Problem("classes", f"{', '.join(run.classes)} are not the model's: {', '.join(known)}; leave it out")
    if run.guidance not in (None, 1) and trained.get("label_dropout") == 0:
        yield Problem("guidance", "needs a model that was trained without labels too (edm.label_dropout above 0)")
    if prepared.scorer is not None:
        yield from _scorer_problems(run, prepared)


def _scorer_problems(run: SampleRun, prepared: PreparedSampling) -> Iterator[Problem]:
    """Whether the scorer knows the same classes, as far as both name them, and takes such images. What a pipeline of others
    draws is known when it has drawn: see `Sampler.scored`."""
    assert prepared.scorer is not None
    known = list(prepared.scorer.config.get("shape", {}).get("classes", ()))
    if known and known != list(prepared.classes):
        shown = [", ".join(names[:10]) + (", ..." if len(names) > 10 else "") for names in (known, prepared.classes)]
        yield Problem("scorer", f"{run.scorer} tells {shown[0]} apart, the images are of {shown[1]}, in this order")
    elif (like := _blank(prepared)) is not None:
        for problem in subject_problems(prepared.scorer, run.scorer, like):
            yield Problem("scorer", problem.what.removeprefix("has "))


def _blank(prepared: PreparedSampling) -> ImageSet | None:
    """Empty images such as the model draws; None if it does not say of what size they are."""
    from afa_dist.diffusion.sampler import denoiser_of

    config: Any = getattr(denoiser_of(prepared.source.pipeline), "config", {})
    size, channels = config.get("sample_size"), config.get("out_channels")
    if not prepared.source.trained_on or size is None:
        return None  # a pipeline may draw in a space of its own
    height, width = (size, size) if isinstance(size, int) else size
    images = torch.zeros(2, channels, height, width, dtype=torch.uint8)
    return ImageSet(images, torch.zeros(2, dtype=torch.int64), prepared.classes)


def facts_of(run: SampleRun, prepared: PreparedSampling) -> dict[str, Any]:
    """All that the images depend on, beyond rounding: sets with other facts are never mixed."""
    import diffusers

    return {
        "model_sha256": prepared.source.sha256,
        "scorer_sha256": prepared.scorer.sha256 if prepared.scorer is not None else None,
        "trained_on": prepared.source.trained_on.get("fingerprint"),
        "classes": list(prepared.classes),
        **{name: getattr(run, name) for name in _OPTIONS},
        "precision": run.scaling.precision,
        "versions": {
            "afa-dist sampler": SAMPLER_VERSION,
            "diffusers": diffusers.__version__,
            "torch": torch.__version__.partition("+")[0],
        },
    }


_OPTIONS = ("count", "steps", "guidance", "prompt", "labels", "keep", "shard_size", "batch_size", "seed")


def _directory_problems(run: SampleRun, prepared: PreparedSampling) -> Iterator[Problem]:
    if elsewhere := [*bring_here_problems(run)]:
        yield from elsewhere
        return
    yield from record_problems(run, RunDirectory.of(run), facts_of(run, prepared))


def _of_summary(directory: RunDirectory) -> dict[str, Any] | None:
    summary = directory.read_json("summary.json")
    return {**summary["made_by"], "classes": summary["classes"]} if summary else None


def record_problems(run: SampleRun, directory: RunDirectory, facts: dict[str, Any]) -> Iterator[Problem]:
    """Whether the directory holds another set, or none where there must be one."""
    yield from directory.problems(run)
    recorded = directory.read_json(IDENTITY) or _of_summary(directory)  # candidates may be deleted when all is done
    if recorded is None:
        if run.merge:
            yield Problem("merge", f"{directory.place} holds no images; start with shard i/n first")
        return
    other = [key for key in facts if recorded.get(key) != facts[key]]
    if other:
        what = ", ".join(key.replace("_sha256", "'s weights").replace("_", " ") for key in other)
        yield Problem("name", f"{directory.place} holds a set with other {what}; choose another name")
