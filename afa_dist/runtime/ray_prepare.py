"""What writes files of a set in a worker of Ray."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import ray

from afa_dist.data.layout import Layout
from afa_dist.data.preparing import Preparer
from afa_dist.data.sources.base import Source
from afa_dist.evaluation.executor import Calls
from afa_dist.runtime.placement import Placement
from afa_dist.runtime.prepare import CALLS
from afa_dist.runtime.ray_calls import Ingredients, OnRay

RETRIES = 3
"""How often a file is begun again whose worker was lost."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Ingredients(Ingredients):
    source: ray.ObjectRef[Any] | None
    layout: Layout
    classes: tuple[str, ...]
    folder: Path
    keeps_memory: ClassVar[bool] = False

    @property
    def calls(self) -> Calls:
        return CALLS

    def make(self) -> Preparer:
        source = ray.get(self.source) if self.source is not None else None
        return Preparer(source, self.layout, self.classes, self.folder)


def on_ray(source: Source | None, layout: Layout, classes: Sequence[str], folder: Path, placement: Placement) -> OnRay:
    """The executor of a preparation; source: None where the images come with the calls."""
    ingredients = _Ingredients(
        source=ray.put(source) if source is not None else None,
        layout=layout,
        classes=tuple(classes),
        folder=folder,
        threads=placement.threads,
        device="cpu",
    )
    return OnRay(ingredients, placement, most=placement.workers, gpu_share=0, retries=RETRIES)
