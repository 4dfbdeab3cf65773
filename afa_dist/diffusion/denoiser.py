"""The network of EDM (Karras et al. 2022, 2206.00364): diffusers' UNet within EDM's preconditioning.

Legend: B images, C channels, H height, W width.
"""

from __future__ import annotations

import torch
from diffusers import EDMEulerScheduler, UNet2DModel
from torch import nn

from afa_dist.config import EdmConfig, UNetConfig
from afa_dist.models.build import DataShape

MOST_GROUPS = 32
CHANNELS_A_GROUP = 4
"""Group normalisation takes as many groups as it can up to `MOST_GROUPS`, of at least so many channels."""


class Denoiser(nn.Module):
    """D(x; sigma, class): what an image looked like before noise of deviation sigma was added (2206.00364, eq. 7).

    Images are on the scale [-1, 1]. Preconditioning is that of `scheduler`, diffusers' own. Class K, one more than there
    are, stands for "not told".
    """

    def __init__(self, unet: UNet2DModel, scheduler: EDMEulerScheduler) -> None:
        super().__init__()
        self.unet = unet
        self.scheduler = scheduler

    @property
    def not_told(self) -> int:
        """The class of images whose class the network is not told."""
        return int(self.unet.config.num_class_embeds) - 1

    def forward(self, x_BCHW: torch.Tensor, sigma_B: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
        sigma_B111 = sigma_B[:, None, None, None]
        scaled = self.scheduler.precondition_inputs(x_BCHW, sigma_B111)
        out = self.unet(scaled, self.scheduler.precondition_noise(sigma_B), class_labels=labels_B).sample
        denoised: torch.Tensor = self.scheduler.precondition_outputs(x_BCHW, out.to(x_BCHW.dtype), sigma_B111)
        return denoised


def build_denoiser(network: UNetConfig, edm: EdmConfig, shape: DataShape) -> Denoiser:
    """A denoiser with fresh weights for images of `shape`."""
    return Denoiser(build_unet(network, shape), EDMEulerScheduler(sigma_data=edm.sigma_data))


def build_unet(network: UNetConfig, shape: DataShape) -> UNet2DModel:
    """The UNet that `network` describes, with an embedding for each class and one for "not told"."""
    short = min(shape.size)
    attended = [short // 2**stage in network.attention for stage in range(len(network.multipliers))]
    return UNet2DModel(
        sample_size=shape.size,
        in_channels=shape.channels,
        out_channels=shape.channels,
        block_out_channels=tuple(network.channels * factor for factor in network.multipliers),
        layers_per_block=network.layers,
        down_block_types=tuple("AttnDownBlock2D" if attends else "DownBlock2D" for attends in attended),
        up_block_types=tuple("AttnUpBlock2D" if attends else "UpBlock2D" for attends in reversed(attended)),
        attention_head_dim=min(network.head_channels, network.channels),
        norm_num_groups=_groups(network.channels),
        resnet_time_scale_shift="scale_shift",
        dropout=network.dropout,
        num_class_embeds=len(shape.classes) + 1,
    )


def _groups(channels: int) -> int:
    return max(n for n in range(1, MOST_GROUPS + 1) if channels % n == 0 and channels // n >= CHANNELS_A_GROUP)
