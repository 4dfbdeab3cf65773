"""The specification of a diffusion model's training: a class-conditional EDM (Karras et al., 2206.00364)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from afa_dist.config.fields import Section, section, setting
from afa_dist.config.sections import AdamConfig
from afa_dist.config.training import TrainingRun
from afa_dist.errors import Problem


@dataclasses.dataclass(kw_only=True, frozen=True)
class UNetConfig(Section):
    """The network: diffusers' UNet2DModel."""

    channels: int = setting(64, "channels at full size; a multiple of 8", ge=8)
    multipliers: tuple[int, ...] = setting(
        (1, 2, 2), "channels of each stage as multiples of those; each stage after the first halves the image"
    )
    layers: int = setting(2, "residual blocks of each stage", ge=1)
    attention: tuple[int, ...] = setting((16, 8), "sizes of feature maps (shorter side) whose stages have self-attention")
    head_channels: int = setting(32, "channels of an attention head", ge=8)
    dropout: float = setting(0.0, "share of a residual block's channels' values set to 0 in training", ge=0, le=0.9)

    def problems(self) -> Iterator[Problem]:
        if self.channels % 8:
            yield Problem("channels", f"{self.channels} is not a multiple of 8 (group normalisation); use one")
        if not self.multipliers or min(self.multipliers) < 1:
            shown = ", ".join(map(str, self.multipliers)) or "nothing"
            yield Problem("multipliers", f"{shown} is not a list of whole numbers of at least 1, such as 1,2,2")
        if self.attention and self.channels % min(self.head_channels, self.channels):
            yield Problem("head_channels", f"{self.head_channels} does not divide channels, {self.channels}")


@dataclasses.dataclass(kw_only=True, frozen=True)
class EdmConfig(Section):
    """Noise levels in training, on the scale of pixels in [-1, 1] (2206.00364, table 1)."""

    p_mean: float = setting(-1.2, "mean of the logarithm of the noise level")
    p_std: float = setting(1.2, "standard deviation of the logarithm of the noise level", gt=0)
    sigma_data: float = setting(0.5, "standard deviation of the images' pixels, about", gt=0)
    label_dropout: float = setting(
        0.1, "share of images trained without their class, for classifier-free guidance (2207.12598); 0 = none", ge=0, le=1
    )


@dataclasses.dataclass(kw_only=True, frozen=True)
class DiffusionRun(TrainingRun):
    """Training of a class-conditional diffusion model on the training images (jobs/generate.py train)."""

    network: UNetConfig = section(UNetConfig, "which network")
    edm: EdmConfig = section(EdmConfig, "noise levels, and what is learned without a class")
    optimiser: AdamConfig = section(AdamConfig, "AdamW settings")

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        if self.data.crop_padding:
            what = f"{self.data.crop_padding} is not allowed here: the model would learn to draw the black borders; use 0"
            yield Problem("data.crop_padding", what)
        for option in ("color_jitter", "auto_augment"):
            if getattr(self.data, option) not in ((), "none"):
                what = "is not allowed here: the model would learn to draw what it does; leave it out"
                yield Problem(f"data.{option}", what)
        if self.data.generated is not None:
            yield Problem("data.generated", f"{self.data.generated}: a model learns from real images alone; leave it out")
