"""The sampler of a worker of Ray."""

from __future__ import annotations

import dataclasses
from typing import Any

import ray

from afa_dist.config import SampleRun
from afa_dist.diffusion.sampler import CALLS, Sampler
from afa_dist.evaluation.executor import Calls
from afa_dist.runtime.placement import Placement
from afa_dist.runtime.ray_calls import Ingredients, OnRay
from afa_dist.runtime.sampling_checks import PreparedSampling


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Ingredients(Ingredients):
    run: SampleRun
    pipeline: ray.ObjectRef[Any]
    classes: tuple[str, ...]
    scorer: ray.ObjectRef[Any] | None

    @property
    def calls(self) -> Calls:
        return CALLS

    def make(self) -> Sampler:
        scorer = ray.get(self.scorer) if self.scorer is not None else None
        return Sampler(self.run, ray.get(self.pipeline), self.classes, scorer, self.device)


def on_ray(run: SampleRun, prepared: PreparedSampling, placement: Placement) -> OnRay:
    """The executor of a sampling."""
    ingredients = _Ingredients(
        run=run,
        pipeline=ray.put(prepared.source.pipeline),
        classes=prepared.classes,
        scorer=ray.put(prepared.scorer.net) if prepared.scorer is not None else None,
        threads=placement.threads,
        device="cuda" if placement.gpu else "cpu",
    )
    return OnRay(ingredients, placement, most=run.scaling.most, gpu_share=run.gpu_share, retries=run.scaling.max_failures)
