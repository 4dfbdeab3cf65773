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
from afa_dist.data.mapped import MappedImages
from afa_dist.data.mixing import Mixture
from afa_dist.data.per_image import PerImage
from afa_dist.distributed.randomness import SlicedRandom
from afa_dist.distributed.world import World


class Batch(NamedTuple):
    """This worker's part of one global batch.

    images_BCHW: augmented pixels in [0, 1], on the worker's device. labels_G: classes of all of the global batch, which
    every worker knows without asking. start: position of its first image in the global batch. second_BCHW: the same
    images augmented by another draw, where two views are wanted. generated_G: which images of the global batch a model has
    drawn, where such are mixed in.
    """

    images_BCHW: torch.Tensor
    labels_G: torch.Tensor
    start: int
    second_BCHW: torch.Tensor | None = None
    generated_G: torch.Tensor | None = None

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

    generated, share: images of a model, and how much of each batch they make; see `Mixture`.
    """

    data: ImageSet
    batch_size: int
    seed: int
    augmentation: Augmentation
    world: World
    dtype: torch.dtype = torch.float32
    two_views: bool = False
    generated: ImageSet | None = None
    share: float = 0.0

    def __post_init__(self) -> None:
        assert self.batch_size % self.world.size == 0

    @property
    def view_names(self) -> tuple[str, ...]:
        """Names of the random numbers of each view."""
        return ("augment", "augment again") if self.two_views else ("augment",)

    @functools.cached_property
    def mixture(self) -> Mixture:
        generated = 0 if self.generated is None else len(self.generated)
        return Mixture.of(len(self.data), generated, self.batch_size, self.share)

    @functools.cached_property
    def steps_per_epoch(self) -> int:
        return self.mixture.steps_per_epoch

    def indices(self, step: int) -> np.ndarray:
        """Positions in `data` of the global batch of `step`, in order, of generated images -1 - position; the same on every
        worker."""
        return self.mixture.rows(self.seed, step)

    def batch(self, step: int) -> Batch:
        """This worker's slice of the global batch of `step`, augmented."""
        share = self.batch_size // self.world.size
        start = self.world.rank * share
        device = self.world.device
        labels_G, generated_G, *read = self._fetch(step)
        images = [bytes_BCHW.to(device, non_blocking=True) for bytes_BCHW in read]
        views = [  # augmented as bytes, a quarter of what they are as numbers
            self.augmentation(source, SlicedRandom(name, self.seed, step, start=start, count=share, device=device))
            .to(self.dtype)
            .div_(255)
            for name, source in zip(self.view_names, images * (len(self.view_names) // len(images)), strict=True)
        ]
        second = views[1] if self.two_views else None
        mixed = generated_G.to(device, non_blocking=True) if self.generated is not None else None
        return Batch(views[0], labels_G.to(device, non_blocking=True), start, second, mixed)

    @functools.cached_property
    def _fetch(self) -> Callable[[int], tuple[torch.Tensor, ...]]:
        sets = [self.data] if self.generated is None else [self.data, self.generated]
        device = self.world.device.type
        near = all(isinstance(part.images_NCHW, torch.Tensor) and part.labels_N.device.type == device for part in sets)
        return self._rows if near and self.augmentation.each is None else Ahead(self._rows)

    def _rows(self, step: int) -> tuple[torch.Tensor, ...]:
        """Of the whole batch labels and which images are generated, and this worker's images as bytes, from where the data
        lie: once, or for each view if these differ before they are shifted and mirrored."""
        share = self.batch_size // self.world.size
        own = slice(self.world.rank * share, (self.world.rank + 1) * share)
        rows_G = torch.from_numpy(self.indices(step))
        if self.augmentation.each is None:
            read: Read = _as_they_are
        else:
            read = functools.partial(self._augmented, self.augmentation.each, step)
        images, labels_G = _taken(self.data, self.generated, rows_G, own, read)
        found = labels_G, rows_G < 0, *images
        if self.world.device.type == "cuda":
            # From pinned memory alone does a copy to the GPU not wait for the host.
            return tuple(part.pin_memory() if part.device.type == "cpu" else part for part in found)
        return found

    def _augmented(
        self, each: PerImage, step: int, images: torch.Tensor | MappedImages, index_M: torch.Tensor, places_M: torch.Tensor
    ) -> list[torch.Tensor]:
        start = self.world.rank * (self.batch_size // self.world.size)
        places = (start + places_M).tolist()
        return each.views(images, index_M, self.view_names, lambda place: (self.seed, step, places[place]))


Read = Callable[["torch.Tensor | MappedImages", torch.Tensor, torch.Tensor], list[torch.Tensor]]
"""From images the ones at some positions, which have some places among this worker's: each view of them."""


def _as_they_are(images: torch.Tensor | MappedImages, index_M: torch.Tensor, places_M: torch.Tensor) -> list[torch.Tensor]:
    return [images[index_M]]


def _taken(
    data: ImageSet, generated: ImageSet | None, rows_G: torch.Tensor, own: slice, read: Read
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Views of the images of the part `own` of `rows_G`, and labels of all of them; negative rows are of generated ones."""
    device = data.images_NCHW.device
    if generated is None:
        index_G = rows_G.to(device, non_blocking=True)
        return read(data.images_NCHW, index_G[own], torch.arange(own.stop - own.start)), data.labels_N[index_G].long()
    views: list[torch.Tensor] = []
    labels_G = torch.empty(len(rows_G), dtype=torch.int64, device=device)
    for part, index_G in ((data, rows_G), (generated, -1 - rows_G)):
        home = part.images_NCHW.device
        # Places are found on the CPU: a mask on a GPU would make the host wait.
        among = (index_G >= 0).nonzero()[:, 0]
        labels_G[among.to(device)] = part.labels_N[index_G[among].to(home)].to(device).long()
        places = (index_G[own] >= 0).nonzero()[:, 0]
        found = read(part.images_NCHW, index_G[own][places].to(home), places)
        views = views or [torch.empty(len(rows_G[own]), *data.shape, dtype=one.dtype, device=device) for one in found]
        for view_BCHW, chosen in zip(views, found, strict=True):
            view_BCHW[places.to(device)] = chosen.to(device)
    return views, labels_G


DEVICE_SHARE = 0.2
"""Part of a GPU's free memory that images may take."""


def placed(data: ImageSet, device: torch.device) -> ImageSet:
    """`data` in the memory of a GPU if it fits there as bytes, else where it is."""
    if device.type != "cuda":
        return data
    free, _ = torch.cuda.mem_get_info(device)
    return data.to(device) if data.images_NCHW.nbytes < DEVICE_SHARE * free else data
