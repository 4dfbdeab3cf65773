"""The training step of EDM, and the same loss on held-out images.

Legend: B images of this worker or of one pass, C channels, H height, W width.
"""

from __future__ import annotations

import torch
from torch import nn

from afa_dist.config import DiffusionRun, EdmConfig
from afa_dist.data.image_set import ImageSet
from afa_dist.data.loader import Batch
from afa_dist.diffusion.denoiser import Denoiser
from afa_dist.diffusion.dropout import with_sliced_dropout
from afa_dist.distributed import SlicedRandom, World, beat
from afa_dist.training.metrics import Meter
from afa_dist.training.step import StepOutput, autocast
from afa_dist.training.validate import own_parts

LEVELS = 8
"""Noise levels at which each held-out image is measured, one from each eighth of those of training."""


class DenoiseStep:
    """E over images, noise levels and noise of lambda(sigma) * |D(x + noise; sigma, class) - x|^2 (2206.00364, eq. 8).

    The square is a mean over pixels, not a sum, so that the loss is about 1 for an untrained network of any size. All
    that is drawn depends on (seed, step, place in the global batch) alone.
    """

    def __init__(self, net: Denoiser, run: DiffusionRun, bf16: bool = False) -> None:
        self.net = net
        self.forward: nn.Module = net
        self.run = run
        self.bf16 = bf16
        self.dropouts = with_sliced_dropout(net)

    @property
    def backbone(self) -> nn.Module:
        return self.net.unet

    def parameters(self) -> list[nn.Parameter]:
        return list(self.net.parameters())

    def train_mode(self) -> None:
        self.net.train()

    def loss(self, batch: Batch, index: int) -> StepOutput:
        """The mean loss of this worker's images in step `index`."""
        x, n = to_symmetric(batch.images_BCHW), len(batch.images_BCHW)
        random = self._random("diffuse", index, batch)
        for number, dropout in enumerate(self.dropouts):
            dropout.random = self._random(f"dropout {number}", index, batch)
        levels = random.normal().to(x.dtype)
        sigma_B = torch.exp(self.run.edm.p_mean + self.run.edm.p_std * levels)
        told = random.uniform() >= self.run.edm.label_dropout
        labels_B = torch.where(told, batch.labels_B, self.net.not_told)
        with autocast(x.device, self.bf16):
            loss = weighted_error(self.forward, x, sigma_B, labels_B, random, self.run.edm).mean()
        return StepOutput(loss, {"loss": (loss.detach() * n, n)})

    def _random(self, what: str, index: int, batch: Batch) -> SlicedRandom:
        images = batch.images_BCHW
        return SlicedRandom(what, self.run.seed, index, start=batch.start, count=len(images), device=images.device)

    @torch.no_grad()
    def held_out_loss(self, held_out: ImageSet, world: World) -> float:
        """The mean loss of `held_out`, each worker taking a share; noise is the same at every validation of a run."""
        meter = Meter(world)
        meter.add({"loss": (torch.zeros((), device=world.device), 0)})
        dtype = next(self.net.parameters()).dtype
        for own in own_parts(len(held_out), world):
            x = to_symmetric(held_out.pixels(own).to(world.device, dtype))
            y = held_out.labels_N[own].to(world.device)
            random = SlicedRandom("validate", self.run.seed, start=own.start, count=len(y), device=world.device)
            place_B = random.uniform().to(dtype)
            for level in range(LEVELS):
                quantile_B = ((level + place_B) / LEVELS).clamp(1e-6, 1 - 1e-6)
                sigma_B = torch.exp(self.run.edm.p_mean + self.run.edm.p_std * torch.special.ndtri(quantile_B))
                with autocast(x.device, self.bf16):
                    error_B = weighted_error(self.net, x, sigma_B, y, random, self.run.edm)
                meter.add({"loss": (error_B.sum(), len(y))})
                beat()
        return meter.take()["loss"]


def to_symmetric(pixels: torch.Tensor) -> torch.Tensor:
    """Pixels in [0, 1] on the scale of diffusion models, [-1, 1]."""
    return pixels * 2 - 1


def weighted_error(
    denoise: nn.Module,
    x_BCHW: torch.Tensor,
    sigma_B: torch.Tensor,
    labels_B: torch.Tensor,
    random: SlicedRandom,
    edm: EdmConfig,
) -> torch.Tensor:
    """lambda(sigma) * mean over pixels of |D(x + noise; sigma, class) - x|^2, (B,)."""
    noise = random.normal(*x_BCHW.shape[1:]).to(x_BCHW.dtype) * sigma_B[:, None, None, None]
    denoised = denoise(x_BCHW + noise, sigma_B, labels_B)
    weight_B = (sigma_B**2 + edm.sigma_data**2) / (sigma_B * edm.sigma_data) ** 2
    return weight_B * (denoised - x_BCHW).square().flatten(1).mean(dim=1)
