"""The specification of a set of images drawn from a diffusion model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Literal

from afa_dist.address import fault_of
from afa_dist.config.fields import section, setting
from afa_dist.config.runs import ShardedRun
from afa_dist.config.sections import DataConfig
from afa_dist.errors import Problem


@dataclasses.dataclass(kw_only=True, frozen=True)
class SampleRun(ShardedRun):
    """A set of images from a diffusion model (jobs/generate.py sample)."""

    model: str = setting(
        "",
        "what to draw from: run directory of generate.py train (a folder or an address), or the folder of any pipeline of "
        "diffusers with safetensors",
    )
    count: int = setting(10_000, "images of the set; with keep below 1 more are drawn", ge=1)
    steps: int = setting(0, "steps of the sampler; 0 = what the pipeline takes by itself (EDM: 18)", ge=0)
    guidance: float | None = setting(
        None,
        "weight w of classifier-free guidance, D + (w - 1) (D - D without class); 1 = none; none = what the pipeline takes "
        "by itself (EDM: 1)",
        ge=0,
        le=100,
    )
    prompt: str = setting("a photo of a {}", "for pipelines that take text: the prompt, {} stands for the class's name")
    classes: tuple[str, ...] = setting((), "names of the classes, in order; by default those of the training images")
    scorer: str = setting(
        "",
        "classifier that scores each image by the logarithm of its label's probability: as evaluate.py's model; best one "
        "that was trained apart from what is to be trained on the images",
    )
    labels: Literal["intended", "scorer"] = setting(
        "intended", "label of an image: the class it was drawn for, or what the scorer says"
    )
    keep: float = setting(
        1.0, "share of each class's images that is kept, those with the highest score (2302.04638: 0.2)", gt=0, le=1
    )
    shard_size: int = setting(10_000, "images that are kept together when they are finished, in one Parquet file", ge=1)
    batch_size: int = setting(
        250, "images drawn at once; less needs less memory; the last bits of images may depend on it", ge=1
    )
    data: DataConfig | None = section(lambda: None, "real images to compare with; by default the model's own")
    nearest: int = setting(
        2000, "so many of the images are looked for among the real ones, training and test, by their pixels; 0 = none", ge=0
    )

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        for name in ("model", "scorer"):
            if fault := fault_of(getattr(self, name)):
                yield Problem(name, fault)
        if not self.scorer:
            if self.keep < 1:
                yield Problem("keep", f"{self.keep:g} needs scores to choose by: give a scorer, or keep all (1)")
            if self.labels == "scorer":
                yield Problem("labels", "scorer needs one: give a scorer, or take intended")
        if self.scaling.precision == "fp64":
            yield Problem("scaling.precision", "fp64 is not offered for drawing; use fp32 (which auto is here) or bf16")
        if "{}" not in self.prompt:
            yield Problem("prompt", f"{self.prompt!r} does not say where the class's name stands; write {{}} there")
