"""The evaluator of a worker of Ray."""

from __future__ import annotations

import dataclasses
import secrets
import sys
from pathlib import Path
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
from afa_dist.runtime.ray_calls import OnRay
from afa_dist.runtime.sharing import SharedImages, same_images, share


@dataclasses.dataclass(frozen=True)
class _Ingredients:
    """import_from: where the driver finds modules that the network may be made of."""

    token: str
    run: EvaluateRun
    net: ray.ObjectRef[Any]
    images: SharedImages | None
    fingerprint: str
    threads: int
    device: str
    import_from: str

    @property
    def calls(self) -> Calls:
        return CALLS

    def make(self) -> ShardEvaluator:
        if self.import_from not in sys.path:
            sys.path.append(self.import_from)
        if self.images is not None:
            test = self.images.get()["test"]
        else:
            test = same_images(load_part(self.run.data, self.run.part), self.fingerprint, self.run.data)
        return ShardEvaluator(self.run, ray.get(self.net), test, self.device)


def on_ray(run: EvaluateRun, prepared: Prepared, placement: Placement) -> OnRay:
    """The executor of an evaluation."""
    ingredients = _Ingredients(
        token=secrets.token_hex(8),
        run=absolute(run),
        net=ray.put(prepared.subject.net),
        images=share({"test": prepared.test}),
        fingerprint=prepared.test.fingerprint(),
        threads=placement.threads,
        device="cuda" if placement.gpu else "cpu",
        import_from=str(Path.cwd()),
    )
    return OnRay(ingredients, placement, most=run.scaling.most, gpu_share=run.gpu_share, retries=run.scaling.max_failures)
