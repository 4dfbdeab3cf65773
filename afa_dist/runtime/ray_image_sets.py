"""What makes rows of a set in a worker of Ray."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import ray

from afa_dist.config import SetRun
from afa_dist.diffusion.rows import CALLS, Maker
from afa_dist.evaluation.executor import Calls
from afa_dist.runtime.placement import Placement
from afa_dist.runtime.ray_calls import Ingredients, OnRay
from afa_dist.runtime.set_checks import PreparedSet


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Ingredients(Ingredients):
    maker: Callable[..., Maker]
    run: SetRun
    origin: ray.ObjectRef[Any]
    classes: tuple[str, ...]
    scorer: ray.ObjectRef[Any] | None

    @property
    def calls(self) -> Calls:
        return CALLS

    def make(self) -> Maker:
        scorer = ray.get(self.scorer) if self.scorer is not None else None
        return self.maker(self.run, ray.get(self.origin), self.classes, scorer, self.device)


def on_ray(prepared: PreparedSet[Any], placement: Placement) -> OnRay:
    """The executor of a set."""
    run: SetRun = prepared.run
    ingredients = _Ingredients(
        maker=type(prepared).maker,
        run=run,
        origin=ray.put(prepared.origin),
        classes=prepared.classes,
        scorer=ray.put(prepared.scorer.net) if prepared.scorer is not None else None,
        threads=placement.threads,
        device="cuda" if placement.gpu else "cpu",
    )
    return OnRay(ingredients, placement, most=run.scaling.most, gpu_share=run.gpu_share, retries=run.scaling.max_failures)
