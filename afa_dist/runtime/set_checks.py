"""What must be right before a set of images is made, whatever it is made from: scorer, real images, and what the directory
holds."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

import pyarrow as pa
import torch
from torch import nn

from afa_dist.config import SetRun
from afa_dist.data.catalogue import DataSplits
from afa_dist.data.image_set import ImageSet
from afa_dist.diffusion.rows import Maker
from afa_dist.errors import Problem, UserError
from afa_dist.evaluation.subject import Subject, load_subject, subject_problems
from afa_dist.runtime.placement import torchrun_size
from afa_dist.training.mirroring import bring_here_problems
from afa_dist.training.run_dir import RunDirectory

IDENTITY = "candidates/identity.json"

R = TypeVar("R", bound=SetRun)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreparedSet(ABC, Generic[R]):
    """A checked set.

    run: its specification. classes: their names, in order. scorer: what scores, or None. real: images to compare with.
    """

    run: R
    classes: tuple[str, ...]
    scorer: Subject | None
    real: DataSplits | None

    @property
    @abstractmethod
    def candidates(self) -> int:
        """How many images the set is chosen from."""

    @property
    @abstractmethod
    def trained_on(self) -> str:
        """Fingerprint of the images that a model of ours saw before it drew these; empty for others."""

    @property
    @abstractmethod
    def origin(self) -> Any:
        """What `maker` needs beside the specification; may be large, and can be pickled."""

    @staticmethod
    @abstractmethod
    def maker(run: R, origin: Any, classes: Sequence[str], scorer: nn.Module | None, device: str) -> Maker:
        """What makes rows, in the process that takes part."""

    @abstractmethod
    def own_facts(self) -> Mapping[str, Any]:
        """What the images depend on, beyond what all sets have in common."""

    @abstractmethod
    def completed(self, table: pa.Table) -> pa.Table:
        """Rows as `maker` gave them, with all columns."""

    def facts(self) -> dict[str, Any]:
        """All that the images depend on, beyond rounding: sets with other facts are never mixed."""
        own = dict(self.own_facts())
        return {
            **own,
            "scorer_sha256": self.scorer.sha256 if self.scorer is not None else None,
            "trained_on": self.trained_on or None,
            "classes": list(self.classes),
            **{name: getattr(self.run, name) for name in _OPTIONS},
            "precision": self.run.scaling.precision,
            "versions": {**own.get("versions", {}), "torch": torch.__version__.partition("+")[0]},
        }


_OPTIONS = ("count", "labels", "keep", "shard_size", "batch_size", "seed")


def launch_problems() -> Iterator[Problem]:
    """Whether it is started in a way that is not for sets."""
    if torchrun_size() > 1:
        yield Problem("scaling.workers", "sets are shared out to Ray workers; start it without torchrun")


def load_scorer(run: SetRun) -> Subject | None:
    """The classifier that `run` names.

    Raises:
        UserError: it cannot be loaded.
    """
    if not run.scorer:
        return None
    try:
        return load_subject(run.scorer)
    except UserError as error:
        raise UserError([Problem("scorer", problem.what) for problem in error.problems]) from error


def scorer_problems(run: SetRun, scorer: Subject, classes: Sequence[str], like: ImageSet | None) -> Iterator[Problem]:
    """Whether the scorer knows the same classes, as far as both name them, and takes such images; `like` is None where
    it is not known before what they are."""
    known = list(scorer.config.get("shape", {}).get("classes", ()))
    if known and known != list(classes):
        shown = [", ".join(names[:10]) + (", ..." if len(names) > 10 else "") for names in (known, list(classes))]
        yield Problem("scorer", f"{run.scorer} tells {shown[0]} apart, the images are of {shown[1]}, in this order")
    elif like is not None:
        for problem in subject_problems(scorer, run.scorer, like, attacked=False):
            yield Problem("scorer", problem.what.removeprefix("has "))


def directory_problems(run: SetRun, facts: Mapping[str, Any]) -> Iterator[Problem]:
    """Whether the run directory, or its mirror, is for another set."""
    if elsewhere := [*bring_here_problems(run)]:
        yield from elsewhere
        return
    yield from record_problems(run, RunDirectory.of(run), facts)


def record_problems(run: SetRun, directory: RunDirectory, facts: Mapping[str, Any]) -> Iterator[Problem]:
    """Whether the directory holds another set, or none where there must be one."""
    if others := list(directory.problems(run)):
        yield from others
        return
    recorded = directory.read_json(IDENTITY) or _of_summary(directory)  # candidates may be deleted when all is done
    if not isinstance(recorded, dict):
        if run.merge:
            yield Problem("merge", f"{directory.place} holds no images; start with shard i/n first")
        return
    other = [key for key in facts if recorded.get(key) != facts[key]]
    if other:
        what = ", ".join(_WORDS.get(key, key.replace("_", " ")) for key in other)
        yield Problem("name", f"{directory.place} holds a set with other {what}; choose another name")


_WORDS = {"model_sha256": "model's weights", "scorer_sha256": "scorer's weights", "images_fingerprint": "images"}


def _of_summary(directory: RunDirectory) -> dict[str, Any] | None:
    summary = directory.read_json("summary.json") or {}
    made_by = summary.get("made_by")
    return {**made_by, "classes": summary.get("classes")} if isinstance(made_by, dict) else None
