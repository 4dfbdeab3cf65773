"""What must be right before images are drawn from a diffusion model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch
from torch import nn

from afa_dist.config import SampleRun
from afa_dist.data.catalogue import load_splits
from afa_dist.data.image_set import ImageSet
from afa_dist.diffusion.available import diffusers_problems
from afa_dist.diffusion.rows import Maker
from afa_dist.diffusion.selection import drawn_for
from afa_dist.errors import Problem, UserError, collected
from afa_dist.runtime.set_checks import PreparedSet, directory_problems, launch_problems, load_scorer, scorer_problems

if TYPE_CHECKING:
    from afa_dist.diffusion.source import Source

SAMPLER_VERSION = 1
"""Counts changes of what our sampler draws for the same options."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreparedSampling(PreparedSet[SampleRun]):
    """A checked sampling. source: what is drawn from."""

    source: Source

    @property
    def candidates(self) -> int:
        return drawn_for(self.run.count, len(self.classes), self.run.keep)

    @property
    def trained_on(self) -> str:
        return str(self.source.trained_on.get("fingerprint", ""))

    @property
    def origin(self) -> Any:
        return self.source.pipeline

    @staticmethod
    def maker(run: SampleRun, origin: Any, classes: Sequence[str], scorer: nn.Module | None, device: str) -> Maker:
        from afa_dist.diffusion.sampler import Sampler

        return Sampler(run, origin, classes, scorer, device)

    def own_facts(self) -> Mapping[str, Any]:
        import diffusers

        return {
            "model_sha256": self.source.sha256,
            **{name: getattr(self.run, name) for name in ("steps", "guidance", "prompt")},
            "versions": {"afa-dist sampler": SAMPLER_VERSION, "diffusers": diffusers.__version__},
        }

    def completed(self, table: pa.Table) -> pa.Table:
        return table


def check(run: SampleRun) -> PreparedSampling:
    """Load and check everything.

    Raises:
        UserError: all mistakes together.
    """
    problems = [*diffusers_problems(), *launch_problems()]
    source, scorer, real = None, None, None
    with collected(problems):
        source = _source(run)
    with collected(problems):
        scorer = load_scorer(run)
    if run.data is not None and run.nearest:
        with collected(problems):
            real = load_splits(run.data)
    if source is None:
        raise UserError(problems)
    classes = run.classes or tuple(source.trained_on.get("classes", ()))
    prepared = PreparedSampling(run=run, source=source, classes=classes, scorer=scorer, real=real)
    problems.extend(_model_problems(prepared))
    if not problems:
        problems.extend(directory_problems(run, prepared.facts()))
    if problems:
        raise UserError(problems)
    return prepared


def _source(run: SampleRun) -> Source:
    from afa_dist.diffusion.source import open_source  # needs diffusers

    return open_source(run.model)


def _model_problems(prepared: PreparedSampling) -> Iterator[Problem]:
    from afa_dist.diffusion.sampler import pipeline_problems

    run = prepared.run
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
        # What a pipeline of others draws is known when it has drawn: see `Scorer`.
        yield from scorer_problems(run, prepared.scorer, prepared.classes, _blank(prepared))


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
