"""The sampler of a worker of Ray."""

from __future__ import annotations

import dataclasses
import secrets
import sys
from pathlib import Path
from typing import Any

import ray

from afa_dist.config import SampleRun
from afa_dist.diffusion.sampler import CALLS, Sampler
from afa_dist.evaluation.executor import Calls
from afa_dist.runtime.placement import Placement
from afa_dist.runtime.ray_calls import OnRay
from afa_dist.runtime.sampling_checks import PreparedSampling


@dataclasses.dataclass(frozen=True)
class _Ingredients:
    """import_from: where the driver finds modules that the scorer may be made of."""

    token: str
    run: SampleRun
    pipeline: ray.ObjectRef[Any]
    classes: tuple[str, ...]
    scorer: ray.ObjectRef[Any] | None
    threads: int
    device: str
    import_from: str

    @property
    def calls(self) -> Calls:
        return CALLS

    def make(self) -> Sampler:
        if self.import_from not in sys.path:
            sys.path.append(self.import_from)
        scorer = ray.get(self.scorer) if self.scorer is not None else None
        return Sampler(self.run, ray.get(self.pipeline), self.classes, scorer, self.device)


def on_ray(run: SampleRun, prepared: PreparedSampling, placement: Placement) -> OnRay:
    """The executor of a sampling."""
    ingredients = _Ingredients(
        token=secrets.token_hex(8),
        run=run,
        pipeline=ray.put(prepared.source.pipeline),
        classes=prepared.classes,
        scorer=ray.put(prepared.scorer.net) if prepared.scorer is not None else None,
        threads=placement.threads,
        device="cuda" if placement.gpu else "cpu",
        import_from=str(Path.cwd()),
    )
    return OnRay(ingredients, placement, most=run.scaling.most, gpu_share=run.gpu_share, retries=run.scaling.max_failures)
