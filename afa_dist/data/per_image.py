"""Augmentation of images one by one, by torchvision's transforms: random resized crops, colour jitter, policies.

Each image draws from a generator of its own, seeded by its place in the global batch, so that it comes out the same on
whichever worker, and in whichever thread.

Legend: M images, C channels, H height, W width.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.overrides import TorchFunctionMode

from afa_dist.config import DataConfig
from afa_dist.data.decode import each_image, pixels_of, to_square
from afa_dist.data.mapped import MappedImages
from afa_dist.distributed.randomness import derive_seed

_DRAWS = {torch.rand, torch.randint, torch.randperm, torch.Tensor.uniform_}
"""What torchvision's transforms that are used here draw with; none of them takes a generator itself."""


class Drawing(TorchFunctionMode):
    """Inside, and in this thread only, random numbers of torch come from `generator` where no other is named."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.generator = generator

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        more = {"generator": self.generator} if func in _DRAWS else {}
        return func(*args, **{**more, **(kwargs or {})})


@dataclasses.dataclass(frozen=True)
class PerImage:
    """What is done to each image, in this order; see `DataConfig` for the options."""

    resized_crop: float = 0.0
    color_jitter: tuple[float, ...] = ()
    auto_augment: str = "none"
    randaugment_ops: int = 2
    randaugment_magnitude: int = 9

    @staticmethod
    def of(config: DataConfig) -> PerImage | None:
        """As `config` has it; None if nothing is done."""
        found = PerImage(**{field.name: getattr(config, field.name) for field in dataclasses.fields(PerImage)})
        return found if found.resized_crop or any(found.color_jitter) or found.auto_augment != "none" else None

    def __call__(self, image: Image.Image, height: int, width: int, generator: torch.Generator) -> Image.Image:
        """Augment `image`, of mode L or RGB and any size; the result has height x width pixels."""
        if not self.resized_crop and image.size != (width, height):
            image = to_square(image, height)
        with Drawing(generator):
            changed: Image.Image = _transform(self, height, width)(image)
        return changed

    def views(
        self,
        images: torch.Tensor | MappedImages,
        index_M: torch.Tensor,
        keys: Sequence[str],
        key: Callable[[int], tuple[int | str, ...]],
    ) -> list[torch.Tensor]:
        """Chosen images, uint8 (M, C, H, W), augmented once for each of `keys`.

        key: of the random numbers of the image at a place in `index_M`.

        Raises:
            UserError: as `MappedImages` does.
        """
        channels, height, width = images.shape[1:]
        found = [np.empty((len(index_M), channels, height, width), np.uint8) for _ in keys]

        def use(place: int, image: Image.Image) -> None:
            for view_MCHW, name in zip(found, keys, strict=True):
                generator = torch.Generator().manual_seed(derive_seed("each", name, *key(place)))
                view_MCHW[place] = pixels_of(self(image, height, width, generator))

        if isinstance(images, MappedImages) and images.is_encoded:
            sources = images.encoded(index_M)
            if sources:
                each_image(len(sources), sources.__getitem__, use, colour=channels == 3)
        else:
            pixels_MHWC = images[index_M].cpu().permute(0, 2, 3, 1).numpy()
            with ThreadPoolExecutor(torch.get_num_threads()) as pool:
                list(pool.map(lambda place: use(place, _image_of(pixels_MHWC[place])), range(len(index_M))))
        return [torch.from_numpy(view_MCHW) for view_MCHW in found]


@functools.lru_cache(maxsize=8)
def _transform(what: PerImage, height: int, width: int) -> Callable[[Image.Image], Image.Image]:
    from torchvision.transforms import v2  # seconds, which only this needs

    policies: dict[str, Callable[[], Any]] = {
        "imagenet": lambda: v2.AutoAugment(v2.AutoAugmentPolicy.IMAGENET),
        "cifar10": lambda: v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10),
        "svhn": lambda: v2.AutoAugment(v2.AutoAugmentPolicy.SVHN),
        "randaugment": lambda: v2.RandAugment(what.randaugment_ops, what.randaugment_magnitude),
        "trivialaugment": lambda: v2.TrivialAugmentWide(),
    }
    steps: list[Any] = []
    if what.resized_crop:
        steps.append(v2.RandomResizedCrop((height, width), scale=(what.resized_crop, 1.0)))
    if any(what.color_jitter):
        steps.append(v2.ColorJitter(*what.color_jitter))
    if what.auto_augment != "none":
        steps.append(policies[what.auto_augment]())
    found: Callable[[Image.Image], Image.Image] = v2.Compose(steps)
    return found


def _image_of(pixels_HWC: np.ndarray) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(pixels_HWC[:, :, 0] if pixels_HWC.shape[2] == 1 else pixels_HWC))
