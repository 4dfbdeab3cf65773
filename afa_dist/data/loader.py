"""Which images a step sees: a function of (seed, epoch, step) alone, so a run can continue anywhere.

Legend: B images of this worker, G images of the global batch, C channels, H height, W width.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from afa_dist.data.ahead import Ahead
from afa_dist.data.augment import Augmentation
from afa_dist.data.image_set import ImageSet
from afa_dist.distributed.randomness import SlicedRandom, derive_seed
from afa_dist.distributed.world import World


class Batch(NamedTuple):
    """This worker's part of one global batch.

    images_BCHW: augmented pixels in [0, 1], on the worker's device. labels_G: classes of all of the global batch, which
    every worker knows without asking. start: position of its first image in the global batch. second_BCHW: the same
    images augmented by another draw, where two views are wanted.
    """

    images_BCHW: torch.Tensor
    labels_G: torch.Tensor
    start: int
    second_BCHW: torch.Tensor | None = None

    @property
    def labels_B(self) -> torch.Tensor:
        return self.labels_G[self.start : self.start + len(self.images_BCHW)]

    @property
    def other_view(self) -> torch.Tensor:
        """The second view, or the only one."""
        return self.images_BCHW if self.second_BCHW is None else self.second_BCHW


@dataclasses.dataclass(frozen=True)
class Loader:
    """Random access to the batches of a run: `batch(step)` for any step, in any order, at the same cost.

    batch_size is global. An epoch drops the images that do not fill a batch; the next one shuffles anew. Where images lie
    elsewhere than on the worker's device (see `placed`), those of the next step are fetched while one is made.
    """

    data: ImageSet
    batch_size: int
    seed: int
    augmentation: Augmentation
    world: World
    dtype: torch.dtype = torch.float32
    two_views: bool = False

    def __post_init__(self) -> None:
        assert self.batch_size % self.world.size == 0

    @property
    def steps_per_epoch(self) -> int:
        return len(self.data) // self.batch_size

    def indices(self, step: int) -> np.ndarray:
        """Positions in `data` of the global batch of `step`, in order; the same on every worker."""
        epoch, offset = divmod(step, self.steps_per_epoch)
        order = _epoch_order(self.seed, epoch, len(self.data))
        return order[offset * self.batch_size : (offset + 1) * self.batch_size]

    def batch(self, step: int) -> Batch:
        """This worker's slice of the global batch of `step`, augmented."""
        share = self.batch_size // self.world.size
        start = self.world.rank * share
        device = self.world.device
        bytes_BCHW, labels_G = self._fetch(step)
        images = bytes_BCHW.to(device, non_blocking=True).to(self.dtype) / 255
        views = [
            self.augmentation(images, SlicedRandom(name, self.seed, step, start=start, count=share, device=device))
            for name in (("augment", "augment again") if self.two_views else ("augment",))
        ]
        return Batch(views[0], labels_G.to(device, non_blocking=True), start, views[1] if self.two_views else None)

    @functools.cached_property
    def _fetch(self) -> Callable[[int], tuple[torch.Tensor, torch.Tensor]]:
        near = self.data.images_NCHW.device.type == self.world.device.type
        return self._rows if near else Ahead(self._rows)

    def _rows(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """This worker's images of `step` as bytes and all labels, from where the data lie."""
        share = self.batch_size // self.world.size
        index_G = torch.from_numpy(self.indices(step)).to(self.data.images_NCHW.device, non_blocking=True)
        own_B = index_G[self.world.rank * share : (self.world.rank + 1) * share]
        images_BCHW, labels_G = self.data.images_NCHW[own_B], self.data.labels_N[index_G]
        if self.world.device.type == "cuda" and images_BCHW.device.type == "cpu":
            # From pinned memory alone does a copy to the GPU not wait for the host.
            return images_BCHW.pin_memory(), labels_G.pin_memory()
        return images_BCHW, labels_G


DEVICE_SHARE = 0.2
"""Part of a GPU's free memory that images may take."""


def placed(data: ImageSet, device: torch.device) -> ImageSet:
    """`data` in the memory of a GPU if it fits there as bytes, else where it is."""
    if device.type != "cuda":
        return data
    free, _ = torch.cuda.mem_get_info(device)
    return data.to(device) if data.images_NCHW.nbytes < DEVICE_SHARE * free else data


@functools.lru_cache(maxsize=2)
def _epoch_order(seed: int, epoch: int, images: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(derive_seed("order", seed, epoch))).permutation(images)
