"""The evaluator of a worker of Ray."""

from __future__ import annotations

import dataclasses
from typing import Any

import ray

from afa_dist.config import EvaluateRun
from afa_dist.data.catalogue import load_part
from afa_dist.evaluation.evaluator import ShardEvaluator
from afa_dist.evaluation.executor import Calls
from afa_dist.evaluation.work import CALLS
from afa_dist.runtime.evaluation_checks import Prepared
from afa_dist.runtime.paths import absolute
from afa_dist.runtime.placement import Placement
from afa_dist.runtime.ray_calls import Ingredients, OnRay
from afa_dist.runtime.sharing import SharedImages, same_images, share


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Ingredients(Ingredients):
    run: EvaluateRun
    net: ray.ObjectRef[Any]
    images: SharedImages | None
    fingerprint: str

    @property
    def calls(self) -> Calls:
        return CALLS

    def make(self) -> ShardEvaluator:
        if self.images is not None:
            test = self.images.get()["test"]
        else:
            test = same_images(load_part(self.run.data, self.run.part), self.fingerprint, self.run.data)
        return ShardEvaluator(self.run, ray.get(self.net), test, self.device)


def on_ray(run: EvaluateRun, prepared: Prepared, placement: Placement) -> OnRay:
    """The executor of an evaluation."""
    ingredients = _Ingredients(
        run=absolute(run),
        net=ray.put(prepared.subject.net),
        images=share({"test": prepared.test}),
        fingerprint=prepared.test.fingerprint(),
        threads=placement.threads,
        device="cuda" if placement.gpu else "cpu",
    )
    return OnRay(ingredients, placement, most=run.scaling.most, gpu_share=run.gpu_share, retries=run.scaling.max_failures)
