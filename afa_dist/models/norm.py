"""Normalisation layers, and BatchNorm whose statistics cover the whole global batch.

Legend: B images of this rank, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from afa_dist.distributed.gather import all_reduce_sum, world_size

NormName = Literal["batch", "group"]

CHANNELS_PER_GROUP = 8


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` over the batches of all ranks, with exact gradients; on one rank, the same layer.

    torch's SyncBatchNorm does this on GPUs only. Here it works with gloo too, so that a CPU run does not depend on
    the number of workers. Ranks must hold equally many images. Parameter and buffer names are those of BatchNorm2d.
    """

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        if not self.training or world_size() == 1:
            return super().forward(x_BCHW)
        assert self.weight is not None and self.bias is not None
        x = at_least_fp32(x_BCHW)
        n = x.numel() // x.shape[1] * world_size()
        mean_C = all_reduce_sum(x.sum(dim=(0, 2, 3))) / n
        centred = x - mean_C[:, None, None]
        var_C = all_reduce_sum(centred.square().sum(dim=(0, 2, 3))) / n
        if self.track_running_stats:
            self._update_buffers(mean_C.detach(), var_C.detach() * n / (n - 1))
        scale_C = self.weight * torch.rsqrt(var_C + self.eps)
        return (centred * scale_C[:, None, None] + self.bias[:, None, None]).to(x_BCHW.dtype)

    @torch.no_grad()
    def _update_buffers(self, mean_C: torch.Tensor, var_C: torch.Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        # momentum None is torch's word for an average with equal weights.
        weight = 1.0 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean_C, weight)
        self.running_var.lerp_(var_C, weight)


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm (1803.08494) with `CHANNELS_PER_GROUP` channels a group, or one group when that does not divide."""
    groups = channels // CHANNELS_PER_GROUP if channels % CHANNELS_PER_GROUP == 0 else 1
    return nn.GroupNorm(groups, channels)


def norm_factory(name: NormName) -> Callable[[int], nn.Module]:
    """The constructor of the normalisation layer called `name`: channels -> module."""
    return GlobalBatchNorm2d if name == "batch" else group_norm


class PixelNormalise(nn.Module):
    """Shift and scale pixels of [0, 1] by the channel means and deviations of the training set.

    It stands inside the model, so attacks and callers stay in pixel space.
    """

    mean_C: torch.Tensor
    std_C: torch.Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean_C", torch.tensor(mean))
        self.register_buffer("std_C", torch.tensor(std))

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return (x_BCHW - self.mean_C[:, None, None]) / self.std_C[:, None, None]


def at_least_fp32(x: torch.Tensor) -> torch.Tensor:
    """`x` in float32 if it has half precision, else as it is: losses and statistics are never computed in 16 bits."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def unit(x: torch.Tensor) -> torch.Tensor:
    """Rows scaled to length 1 (a zero row stays zero)."""
    return F.normalize(x, dim=-1)
