"""What must be right before images are chosen from a set that is there."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from afa_dist.config import SelectRun
from afa_dist.data.catalogue import load_splits
from afa_dist.data.generated import numbered, record_of
from afa_dist.data.image_set import ImageSet
from afa_dist.data.stored import StoredImages
from afa_dist.diffusion.rows import Maker
from afa_dist.diffusion.selector import Selector, completed
from afa_dist.errors import Problem, UserError, collected
from afa_dist.evaluation.subject import Subject
from afa_dist.runtime.set_checks import PreparedSet, directory_problems, launch_problems, load_scorer, scorer_problems

SELECTOR_VERSION = 1
"""Counts changes of what is chosen for the same options."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreparedSelection(PreparedSet[SelectRun]):
    """A checked selection. stored: the images that it is made from."""

    stored: StoredImages

    @property
    def candidates(self) -> int:
        return len(self.stored)

    @property
    def made_by(self) -> dict[str, Any]:
        """What is recorded of how these images were made."""
        found = record_of(str(self.stored.folder)).get("made_by")
        return found if isinstance(found, dict) else {}

    @property
    def trained_on(self) -> str:
        return str(self.made_by.get("trained_on") or "")

    @property
    def origin(self) -> Any:
        return self.stored

    @staticmethod
    def maker(run: SelectRun, origin: Any, classes: Sequence[str], scorer: nn.Module | None, device: str) -> Maker:
        return Selector(run, origin, len(classes), scorer, device)

    def own_facts(self) -> Mapping[str, Any]:
        return {
            "images_sha256": self.stored.sha256(),
            "images_made_by": self.made_by or None,
            "versions": {"afa-dist selector": SELECTOR_VERSION},
        }

    def completed(self, table: pa.Table) -> pa.Table:
        return completed(self.stored, table)


def check(run: SelectRun) -> PreparedSelection:
    """Load and check everything.

    Raises:
        UserError: all mistakes together.
    """
    problems = [*launch_problems()]
    stored, scorer, real = None, None, None
    with collected(problems):
        stored = StoredImages(Path(run.images).expanduser())
    with collected(problems):
        scorer = load_scorer(run)
    if run.data is not None and run.nearest:
        with collected(problems):
            real = load_splits(run.data)
    if stored is None:
        raise UserError(problems)
    prepared = PreparedSelection(run=run, stored=stored, classes=_classes(run, stored, scorer), scorer=scorer, real=real)
    problems.extend(_problems(prepared))
    if not problems:
        problems.extend(directory_problems(run, prepared.facts()))
    if problems:
        raise UserError(problems)
    return prepared


def _classes(run: SelectRun, stored: StoredImages, scorer: Subject | None) -> tuple[str, ...]:
    """Names of the classes: as given; as the files say, unless they only number them; as the scorer says."""
    known = tuple(scorer.config.get("shape", {}).get("classes", ())) if scorer is not None else ()
    named = () if numbered(stored.classes) else stored.classes
    return run.classes or named or known or stored.classes or tuple(map(str, range(int(stored.labels_N.max()) + 1)))


def _problems(prepared: PreparedSelection) -> Iterator[Problem]:
    run, stored, classes = prepared.run, prepared.stored, prepared.classes
    if run.classes and stored.classes and not numbered(stored.classes) and run.classes != stored.classes:
        shown = [", ".join(names[:10]) for names in (run.classes, stored.classes)]
        yield Problem("classes", f"{shown[0]} are not those of the files: {shown[1]}; leave it out")
    if int(stored.labels_N.max()) >= len(classes):
        row = int(np.flatnonzero(stored.labels_N >= len(classes))[0])
        yield Problem(
            "images", f"{stored.folder}: label {stored.labels_N[row]} of row {row} is none of {len(classes)} classes"
        )
    if run.count > len(stored):
        yield Problem("count", f"{run.count} of {len(stored)} images; take fewer, or 0 for all that keep leaves")
    if prepared.scorer is not None:
        some = torch.from_numpy(stored.images(0, min(2, len(stored)))).permute(0, 3, 1, 2)
        like = ImageSet(some, torch.zeros(len(some), dtype=torch.int64), classes)
        yield from scorer_problems(run, prepared.scorer, classes, like)
