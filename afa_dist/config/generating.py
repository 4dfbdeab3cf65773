"""The specifications of sets of generated images: drawn from a diffusion model, or chosen from another set."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Literal

from afa_dist.address import fault_of, is_address
from afa_dist.config.data_section import DataConfig
from afa_dist.config.fields import section, setting
from afa_dist.config.runs import ShardedRun
from afa_dist.errors import Problem


@dataclasses.dataclass(kw_only=True, frozen=True)
class SetRun(ShardedRun):
    """A set of images to train on, chosen among candidates."""

    count: int = setting(0, "most images of the new set, evenly by class; 0 = all that keep leaves", ge=0)

    scorer: str = setting(
        "",
        "classifier that scores each image by the logarithm of its label's probability: as evaluate.py's model; best one "
        "that was trained apart from what is to be trained on the images",
    )
    labels: Literal["intended", "scorer"] = setting(
        "intended", "label of an image: the class it was drawn for or came with, or what the scorer says"
    )
    keep: float = setting(
        1.0, "share of each class's images that is kept, those with the highest score (2302.04638: 0.2)", gt=0, le=1
    )
    shard_size: int = setting(10_000, "images that are kept together when they are finished, in one Parquet file", ge=1)
    batch_size: int = setting(
        250, "images drawn or scored at once; less needs less memory; the last bits may depend on it", ge=1
    )
    classes: tuple[str, ...] = setting((), "names of the classes, in order; by default those of the training images")
    data: DataConfig | None = section(lambda: None, "real images to compare with; by default those the set was made from")
    nearest: int = setting(
        2000, "so many of the images are looked for among the real ones, training and test, by their pixels; 0 = none", ge=0
    )

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        if fault := fault_of(self.scorer):
            yield Problem("scorer", fault)
        if not self.scorer:
            if self.keep < 1:
                yield Problem("keep", f"{self.keep:g} needs scores to choose by: give a scorer, or keep all (1)")
            if self.labels == "scorer":
                yield Problem("labels", "scorer needs one: give a scorer, or take intended")
        if self.scaling.precision == "fp64":
            yield Problem("scaling.precision", "fp64 is not offered here; use fp32 (which auto is here) or bf16")


@dataclasses.dataclass(kw_only=True, frozen=True)
class SampleRun(SetRun):
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

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        if fault := fault_of(self.model):
            yield Problem("model", fault)
        if "{}" not in self.prompt:
            yield Problem("prompt", f"{self.prompt!r} does not say where the class's name stands; write {{}} there")


@dataclasses.dataclass(kw_only=True, frozen=True)
class SelectRun(SetRun):
    """The best of a set of images that is there, or all of it with the labels of a teacher (jobs/generate.py select)."""

    images: str = setting(
        "",
        "set to choose from: a run of generate.py sample, what prepare_data.py wrote, or any folder of such Parquet files",
    )

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        if not self.images:
            yield Problem("images", "missing; give the folder of the images to choose from")
        elif is_address(self.images):
            yield Problem("images", f"{self.images}: sets are read from folders; copy it here first")
        if not self.scorer:
            yield Problem("scorer", "missing; give the classifier to choose or to label by")
        elif self.keep == 1 and self.labels == "intended" and not self.count:
            yield Problem("keep", "1 with the labels that are there changes nothing; keep fewer, or take labels scorer")
