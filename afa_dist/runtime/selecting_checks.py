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
from afa_dist.data.stored import Stored
from afa_dist.data.stored_arrow import open_stored
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

    stored: Stored

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
            "images_fingerprint": self.stored.fingerprint,
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
        scorer = load_scorer(run)
    with collected(problems):
        stored = open_stored(Path(run.images), unlabelled=run.labels == "scorer", colour=_in_colour(scorer))
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


def _in_colour(scorer: Subject | None) -> bool | None:
    """Whether the scorer takes images in colour; None if it does not say."""
    channels = scorer.config.get("shape", {}).get("channels") if scorer is not None else None
    return channels == 3 if channels is not None else None


def _classes(run: SelectRun, stored: Stored, scorer: Subject | None) -> tuple[str, ...]:
    """Names of the classes: as given; as the files say, unless they only number them; as the scorer says."""
    known = tuple(scorer.config.get("shape", {}).get("classes", ())) if scorer is not None else ()
    named = stored.classes if not numbered(stored.classes) or len(stored.classes) > len(known) else ()
    return run.classes or named or known or tuple(map(str, range(int(stored.labels_N.max()) + 1)))


def _problems(prepared: PreparedSelection) -> Iterator[Problem]:
    run, stored, classes = prepared.run, prepared.stored, prepared.classes
    if run.classes and stored.classes and not numbered(stored.classes) and run.classes != stored.classes:
        shown = [", ".join(names[:10]) for names in (run.classes, stored.classes)]
        yield Problem("classes", f"{shown[0]} are not those of the files: {shown[1]}; leave it out")
    if int(stored.labels_N.max()) >= len(classes):
        row = int(np.flatnonzero(stored.labels_N >= len(classes))[0])
        what = f"label {stored.labels_N[row]} of row {row} is none of {len(classes)} classes"
        yield Problem("images", f"{stored.folder}: {what}")
    else:
        yield from _count_problems(run, stored, len(classes))
    real = prepared.real
    if real is not None and real.train.shape != stored.shape:
        sizes = [" x ".join(map(str, shape)) for shape in (stored.shape, real.train.shape)]
        yield Problem("nearest", f"compares images of {sizes[0]} with real ones of {sizes[1]}; set data.image_size, or 0")
    if prepared.scorer is not None:
        pixels = stored.images(stored.encoded(np.arange(min(2, len(stored)))))
        some = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        like = ImageSet(some, torch.zeros(len(some), dtype=torch.int64), classes)
        found = list(scorer_problems(run, prepared.scorer, classes, like))
        unnamed = found and not run.classes and (numbered(stored.classes) or not stored.classes)
        yield from found
        if unnamed:
            yield Problem(
                "classes", f"the files name none, {len(classes)} are assumed; name all of them, in order, if wrong"
            )


def _count_problems(run: SelectRun, stored: Stored, classes: int) -> Iterator[Problem]:
    """Whether so many images are left; with labels of a scorer that is known when it has seen them."""
    if run.labels == "intended":
        have = np.bincount(stored.labels_N, minlength=classes)
        left = int(np.floor(np.round(run.keep * have, 9)).sum())
    else:
        left = int(round(run.keep * len(stored), 9))
    if not left:
        yield Problem("keep", f"{run.keep:g} leaves none of {len(stored)} images; keep more")
    elif run.count > left:
        yield Problem("count", f"{run.count}: keep {run.keep:g} leaves {left} of {len(stored)} images; 0 takes all of them")
