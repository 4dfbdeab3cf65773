"""Draws any part of a set of images, each by the number it has in the set.

Legend: B images drawn at once, C channels, H height, W width.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from afa_dist.config import SampleRun
from afa_dist.data.writing import png
from afa_dist.diffusion.rows import Scorer, table_of
from afa_dist.distributed import derive_seed
from afa_dist.errors import Problem, UserError
from afa_dist.training.execution import compiles
from afa_dist.training.step import autocast


class Sampler:
    """Draws images of a run; made once for each process that takes part."""

    def __init__(
        self, run: SampleRun, pipeline: Any, classes: Sequence[str], scorer: nn.Module | None, device: str
    ) -> None:
        self.run = run
        self.pipeline = pipeline.to(device)
        self.classes = tuple(classes)
        self.device = torch.device(device)
        self.scorer = Scorer(scorer, len(self.classes), run.labels, self.device)
        self.takes = set(inspect.signature(type(pipeline).__call__).parameters)
        if compiles(run.scaling.compile, self.device):
            denoiser_of(pipeline).compile()

    def rows(self, start: int, stop: int) -> pa.Table:
        """Images start to stop - 1 of the set, with all columns."""
        numbers = range(start, stop)
        intended = np.array([number % len(self.classes) for number in numbers])
        seeds = [derive_seed("generate", self.run.seed, number) for number in numbers]
        images_BHWC = self.images(intended, seeds)
        encoded = [
            {"bytes": png(image), "path": f"{number:09d}.png"} for image, number in zip(images_BHWC, numbers, strict=True)
        ]
        found = self.scorer.columns(images_BHWC, intended, numbers)
        return table_of({"image": encoded, **found, "seed": seeds, "index": list(numbers)})

    @torch.no_grad()
    def images(self, intended: np.ndarray, seeds: Sequence[int]) -> np.ndarray:
        """Pixels of the images, uint8 (B, H, W, C).

        Noise is drawn on the CPU, image by image, so that the set is the same on all devices but for rounding.
        """
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        with autocast(self.device, self.run.scaling.precision == "bf16"):
            found = self.pipeline(**self._arguments(intended), generator=generators, output_type="np").images
        pixels = np.asarray(found, dtype=np.float32)
        if not np.isfinite(pixels).all():
            raise UserError.one("model", f"draws images that are not finite, such as that with seed {seeds[0]}")
        return np.rint(pixels.clip(0, 1) * 255).astype(np.uint8)

    def _arguments(self, intended: np.ndarray) -> dict[str, Any]:
        given: dict[str, Any] = {}
        if "class_labels" in self.takes:
            given["class_labels"] = intended.tolist()
        elif "prompt" in self.takes:
            given["prompt"] = [self.run.prompt.replace("{}", self.classes[label]) for label in intended]
        else:
            given["batch_size"] = len(intended)
        if self.run.steps:
            given["num_inference_steps"] = self.run.steps
        if self.run.guidance is not None:
            given["guidance_scale"] = self.run.guidance
        return given


def pipeline_problems(pipeline: Any, run: SampleRun) -> Iterator[Problem]:
    """Why images of classes cannot be drawn by `pipeline` with the options of `run`."""
    name, takes = type(pipeline).__name__, set(inspect.signature(type(pipeline).__call__).parameters)
    if missing := {"generator", "output_type"} - takes:
        yield Problem("model", f"{name} takes no {' and no '.join(sorted(missing))}, so images cannot be drawn one by one")
        return
    if not takes & {"class_labels", "prompt", "batch_size"}:
        yield Problem("model", f"{name} draws neither by class, nor by text, nor a number of images")
    if not takes & {"class_labels", "prompt"} and run.labels == "intended":
        yield Problem("labels", f"{name} does not draw by class, so the labels must come from a scorer: labels scorer")
    if run.steps and "num_inference_steps" not in takes:
        yield Problem("steps", f"{name} does not let its steps be chosen; leave it at 0")
    if run.guidance is not None and "guidance_scale" not in takes:
        yield Problem("guidance", f"{name} has no guidance; leave it out")


def denoiser_of(pipeline: Any) -> nn.Module:
    """The network that a pipeline calls in every step."""
    parts = {name: part for name, part in pipeline.components.items() if isinstance(part, nn.Module)}
    return next((parts[name] for name in ("unet", "transformer") if name in parts), next(iter(parts.values())))
