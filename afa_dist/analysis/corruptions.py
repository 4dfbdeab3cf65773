"""Common corruptions, made on the device: noise, blur, weather and what cameras and files do to images.

The kinds are those of CIFAR-10-C (Hendrycks & Dietterich, 1903.12261), and for noise, gaussian blur, fog, brightness and
contrast the strengths as well. The images are not: theirs come from other libraries and other random numbers. Figures are
comparable between models measured here, not with published ones (`afa_dist.analysis.cifar_c` reads the published files).

torchvision and kornia are imported where they are used: both take their time.

Legend: B images, C channels, H height, W width.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from afa_dist.distributed import derive_seed

STRENGTHS = (1, 2, 3, 4, 5)

SIDE = 32
"""Lengths are given in pixels of images of this side, and grow with larger ones. On smaller images they stay: half a pixel
cannot be seen on any."""


class ImageRandom:
    """Random numbers for each image by its number in the test set, whatever images are corrupted with it.

    They are drawn on the CPU, so that a GPU sees the same ones. Two strengths of a corruption draw the same numbers.
    """

    def __init__(self, key: tuple[int | str, ...], indices_B: list[int]) -> None:
        self._generators = [torch.Generator().manual_seed(derive_seed(*key, index)) for index in indices_B]

    def each(self, draw: Callable[[torch.Generator], torch.Tensor]) -> torch.Tensor:
        return torch.stack([draw(generator) for generator in self._generators])

    def normal(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Standard normal, like `x_BCHW`."""
        return self.each(lambda g: torch.randn(x_BCHW.shape[1:], generator=g)).to(x_BCHW)

    def uniform(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Uniform in [0, 1), like `x_BCHW`."""
        return self.each(lambda g: torch.rand(x_BCHW.shape[1:], generator=g)).to(x_BCHW)


# -- noise. torchvision and kornia draw from the generator of the process, for all images at once; so the sums are here.


def gaussian_noise(x: torch.Tensor, strength: int, random: ImageRandom) -> torch.Tensor:
    return x + (0.04, 0.06, 0.08, 0.09, 0.10)[strength - 1] * random.normal(x)


def shot_noise(x: torch.Tensor, strength: int, random: ImageRandom) -> torch.Tensor:
    """Poisson noise: the fewer photons, the more."""
    photons = (500.0, 250.0, 100.0, 75.0, 50.0)[strength - 1]
    counts = iter((x.clamp(0, 1) * photons).cpu())
    return random.each(lambda g: torch.poisson(next(counts), generator=g)).to(x) / photons


def impulse_noise(x: torch.Tensor, strength: int, random: ImageRandom) -> torch.Tensor:
    """Salt and pepper: a share of all values is 0 or 1."""
    share = (0.01, 0.02, 0.03, 0.05, 0.07)[strength - 1]
    chance, which = random.uniform(x), random.uniform(x)
    return torch.where(chance < share, (which < 0.5).to(x), x)


def speckle_noise(x: torch.Tensor, strength: int, random: ImageRandom) -> torch.Tensor:
    """Noise in proportion to the brightness."""
    return x + x * (0.06, 0.10, 0.12, 0.16, 0.20)[strength - 1] * random.normal(x)


# -- blur


def gaussian_blur(x: torch.Tensor, strength: int, random: ImageRandom) -> torch.Tensor:
    from torchvision.transforms.v2 import functional as tv

    sigma = _length((0.4, 0.6, 0.7, 0.8, 1.0)[strength - 1], x)
    return tv.gaussian_blur(x, [_odd(8 * sigma, x)] * 2, [sigma] * 2)


def defocus_blur(x: torch.Tensor, strength: int, random: ImageRandom) -> torch.Tensor:
    """A disk instead of each point, with an edge that is a pixel wide."""
    from kornia.filters import filter2d

    radius = _length((0.6, 0.8, 1.0, 1.5, 2.0)[strength - 1], x)
    size = _odd(2 * radius + 2, x)
    offset = torch.arange(size, device=x.device, dtype=x.dtype) - size // 2
    disk = (radius + 0.5 - torch.hypot(offset[:, None], offset)).clamp(0, 1)
    return filter2d(x, disk[None], normalized=True)


def motion_blur(x: torch.Tensor, strength: int, random: ImageRandom) -> torch.Tensor:
    """Each image along a direction of its own."""
    from kornia.filters import motion_blur as blur

    size = _odd(_length((3, 5, 7, 9, 11)[strength - 1], x), x)
    angle_B = random.each(lambda g: torch.rand((), generator=g)).to(x) * 180
    return blur(x, size, angle_B, torch.zeros_like(angle_B), mode="bilinear")


# -- weather


def fog(x: torch.Tensor, strength: int, random: ImageRandom) -> torch.Tensor:
    """Clouds (the diamond-square algorithm) over an image whose contrast shrinks."""
    from kornia.contrib import diamond_square

    amount = (0.2, 0.5, 0.75, 1.0, 1.5)[strength - 1]
    side = max(x.shape[-2:])

    def clouds(generator: torch.Generator) -> torch.Tensor:
        plane = diamond_square((1, 1, side, side), 0.4, random_fn=partial(torch.rand, generator=generator))
        low, high = plane.aminmax()
        return ((plane - low) / (high - low).clamp(min=1e-6))[0, :, : x.shape[-2], : x.shape[-1]]

    return (x + amount * random.each(clouds).to(x)) / (1 + amount)


def snow(x: torch.Tensor, strength: int, random: ImageRandom) -> torch.Tensor:
    """Flakes that fall along one direction, over an image that is whitened a little."""
    from kornia.filters import motion_blur as blur

    share, whiten = ((0.02, 0.05), (0.04, 0.1), (0.06, 0.15), (0.09, 0.2), (0.13, 0.3))[strength - 1]
    flakes_BHW = (random.each(lambda g: torch.rand(x.shape[-2:], generator=g)) < share).to(x)
    falling = blur(flakes_BHW[:, None], _odd(_length(5, x), x), 60.0, 0.0, mode="bilinear")
    return x + whiten * (1 - x) + 2 * falling


def brightness(x: torch.Tensor, strength: int, random: ImageRandom) -> torch.Tensor:
    """The same amount of light everywhere (kornia adds it, torchvision would multiply and leave black black)."""
    from kornia.enhance import adjust_brightness

    return adjust_brightness(x, (0.05, 0.10, 0.15, 0.20, 0.30)[strength - 1])


# -- digital


def contrast(x: torch.Tensor, strength: int, random: ImageRandom) -> torch.Tensor:
    from torchvision.transforms.v2 import functional as tv

    return tv.adjust_contrast(x, (0.75, 0.5, 0.4, 0.3, 0.15)[strength - 1])


def pixelate(x: torch.Tensor, strength: int, random: ImageRandom) -> torch.Tensor:
    """Fewer and larger pixels: means of areas."""
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as tv

    share = (0.75, 0.6, 0.5, 0.4, 0.25)[strength - 1]
    size = [max(1, round(share * side)) for side in x.shape[-2:]]
    small = tv.resize(x, size, InterpolationMode.BILINEAR, antialias=True)
    return tv.resize(small, list(x.shape[-2:]), InterpolationMode.NEAREST)


def jpeg_compression(x: torch.Tensor, strength: int, random: ImageRandom) -> torch.Tensor:
    """By pillow, one image at a time, on the CPU: torchvision is about to give up its own coder (deprecated since 0.29)."""
    quality = (80, 58, 40, 25, 10)[strength - 1]
    bytes_BHWC = (x * 255).round().to(torch.uint8).cpu().permute(0, 2, 3, 1).numpy()
    coded = np.stack([_jpeg(image, quality) for image in bytes_BHWC])
    return torch.from_numpy(coded).permute(0, 3, 1, 2).to(x) / 255


def _jpeg(image_HWC: np.ndarray, quality: int) -> np.ndarray:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image_HWC.squeeze(2) if image_HWC.shape[2] == 1 else image_HWC).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file)).reshape(image_HWC.shape)


def saturate(x: torch.Tensor, strength: int, random: ImageRandom) -> torch.Tensor:
    from torchvision.transforms.v2 import functional as tv

    return tv.adjust_saturation(x, (1.5, 2.0, 2.5, 3.5, 5.0)[strength - 1])


Corruption = Callable[[torch.Tensor, int, ImageRandom], torch.Tensor]

FAMILIES: dict[str, dict[str, Corruption]] = {
    "noise": {
        "gaussian_noise": gaussian_noise,
        "shot_noise": shot_noise,
        "impulse_noise": impulse_noise,
        "speckle_noise": speckle_noise,
    },
    "blur": {"gaussian_blur": gaussian_blur, "defocus_blur": defocus_blur, "motion_blur": motion_blur},
    "weather": {"fog": fog, "snow": snow, "brightness": brightness},
    "digital": {
        "contrast": contrast,
        "pixelate": pixelate,
        "jpeg_compression": jpeg_compression,
        "saturate": saturate,
    },
}

NEEDS_CHANNELS = {"jpeg_compression": (1, 3), "saturate": (3,), "contrast": (1, 3)}
"""What can be done to images with so many channels only: a grey image has no colours to saturate."""


def corruptions_for(channels: int) -> dict[str, dict[str, Corruption]]:
    """`FAMILIES`, less what images with so many channels do not allow."""
    return {
        family: {name: made for name, made in members.items() if channels in NEEDS_CHANNELS.get(name, (channels,))}
        for family, members in FAMILIES.items()
    }


@torch.no_grad()
def corrupt(x_BCHW: torch.Tensor, name: str, strength: int, seed: int, indices_B: list[int]) -> torch.Tensor:
    """`x_BCHW`, pixels in [0, 1], with corruption `name` at `strength` (1 to 5); pixels in [0, 1] again.

    Args:
        indices_B: the number of each image in the test set: with seed and name, all that its random numbers depend on.
    """
    made = next(members[name] for members in FAMILIES.values() if name in members)
    return made(x_BCHW, strength, ImageRandom(("corruption", seed, name), indices_B)).clamp(0, 1)


def _length(pixels: float, x: torch.Tensor) -> float:
    return pixels * max(1.0, min(x.shape[-2:]) / SIDE)


def _odd(size: float, x: torch.Tensor) -> int:
    """The odd whole number next to `size`, from 3 on, that mirrored borders of such images allow."""
    most = 2 * min(x.shape[-2:]) - 1
    return min(max(3, 2 * round((size - 1) / 2) + 1), most)
