"""What can be said of a diffusion model before anything is computed."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

from afa_dist.config import DiffusionRun
from afa_dist.data.catalogue import DataSplits
from afa_dist.errors import Problem


def diffusers_problems() -> Iterator[Problem]:
    """Whether diffusers is missing."""
    if importlib.util.find_spec("diffusers") is None:
        yield Problem("diffusers", "is not installed, which diffusion models need: pip install 'afa-dist[diffusion]'")


def network_problems(run: DiffusionRun, splits: DataSplits) -> Iterator[Problem]:
    """Why the network of `run` cannot be built, or not for images of this size."""
    yield from diffusers_problems()
    _, height, width = splits.train.shape
    stages = len(run.network.multipliers)
    factor = 2 ** (stages - 1)
    if height % factor or width % factor:
        most = max(n for n in range(1, stages + 1) if height % 2 ** (n - 1) == 0 and width % 2 ** (n - 1) == 0)
        yield Problem(
            "network.multipliers",
            f"{stages} stages halve the images {stages - 1} times, and {height} x {width} pixels are not divisible by "
            f"{factor}; give {most} or fewer",
        )
