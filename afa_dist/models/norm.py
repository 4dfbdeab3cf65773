"""Normalisation layers, and BatchNorm whose statistics cover the whole global batch.

Legend: B images of this rank, C channels, H height, W width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

from afa_dist.distributed.gather import all_reduce_sum, world_size

NormName = Literal["batch", "group"]

CHANNELS_PER_GROUP = 8


class _NormaliseGlobally(torch.autograd.Function):
    """Output of BatchNorm with the statistics of all ranks, and these: mean and biased variance, without gradient.

    One collective of 2C numbers forward and one backward, and torch's own kernels around them.
    """

    @staticmethod
    def forward(
        ctx: Any, x_BCHW: torch.Tensor, weight_C: torch.Tensor, bias_C: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        x = at_least_fp32(x_BCHW)
        own_mean_C = x.mean(dim=(0, 2, 3))
        own_var_C = (x - own_mean_C[:, None, None]).square_().mean(dim=(0, 2, 3))
        # Second moments add up as means do. In float64 nothing is lost when the square of the mean is taken off again.
        own_mean_C, own_var_C = own_mean_C.double(), own_var_C.double()
        mean_C, moment_C = all_reduce_sum(torch.stack([own_mean_C, own_var_C + own_mean_C.square()])) / world_size()
        var_C = (moment_C - mean_C.square()).clamp_(min=0).to(x.dtype)
        mean_C = mean_C.to(x.dtype)
        ctx.save_for_backward(x_BCHW, weight_C, mean_C, var_C)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean_C, var_C)
        return F.batch_norm(x_BCHW, mean_C, var_C, weight_C, bias_C, training=False, eps=eps), mean_C, var_C

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> Any:
        x_BCHW, weight_C, mean_C, var_C = ctx.saved_tensors
        grad_BCHW = grad_outputs[0]
        # Sums over this rank of grad * normalised x and of grad: the gradients of weight and bias, which DDP adds up.
        _, grad_weight_C, grad_bias_C = torch.ops.aten.native_batch_norm_backward(
            grad_BCHW, x_BCHW, weight_C, mean_C, var_C, None, None, False, ctx.eps, [False, True, True]
        )
        sums_2C = torch.stack([grad_weight_C, grad_bias_C])
        all_ranks_2C = all_reduce_sum(sums_2C)
        n = x_BCHW.numel() // x_BCHW.shape[1] * world_size()
        inverse_C = torch.rsqrt(var_C + ctx.eps)
        # d x = weight / std * (grad - mean of grad - normalised x * mean of grad * normalised x), as a * grad + b * x + c.
        a_C = weight_C * inverse_C
        b_C = -a_C * inverse_C * all_ranks_2C[0] / n
        c_C = -a_C * all_ranks_2C[1] / n - b_C * mean_C
        a, b, c = (values_C[:, None, None] for values_C in (a_C, b_C, c_C))
        grad_x = torch.addcmul(c, x_BCHW, b).addcmul_(grad_BCHW, a)
        return grad_x.to(x_BCHW.dtype), grad_weight_C, grad_bias_C, None


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` over the batches of all ranks, with exact gradients; on one rank, the same layer.

    torch's SyncBatchNorm does this on GPUs only. Here it works with gloo too, so that a CPU run does not depend on
    the number of workers. Ranks must hold equally many images. Parameter and buffer names are those of BatchNorm2d.
    """

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        if not self.training or world_size() == 1:
            return super().forward(x_BCHW)
        out_BCHW, mean_C, var_C = _NormaliseGlobally.apply(x_BCHW, self.weight, self.bias, self.eps)
        if self.track_running_stats:
            n = x_BCHW.numel() // x_BCHW.shape[1] * world_size()
            self._update_buffers(mean_C, var_C * n / (n - 1))
        return out_BCHW

    @torch.no_grad()
    def _update_buffers(self, mean_C: torch.Tensor, var_C: torch.Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        # momentum None is torch's word for an average with equal weights.
        weight = 1.0 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean_C, weight)
        self.running_var.lerp_(var_C, weight)


def conv_norm(conv: nn.Conv2d, norm: nn.Module, x_BCHW: torch.Tensor) -> torch.Tensor:
    """`norm(conv(x_BCHW))`; one convolution where `norm` is BatchNorm with running statistics and no weight is trained.

    There normalisation is a factor and a shift of each channel, which the weights can carry: that spares an attack the
    passes over memory that BatchNorm makes, forward and backward. Equal but for rounding. Hooks of both layers are not
    called then. `conv` must not have a bias.
    """
    if type(norm) is not GlobalBatchNorm2d or norm.training:
        return norm(conv(x_BCHW))
    if torch.is_grad_enabled() and (conv.weight.requires_grad or norm.weight.requires_grad):
        return norm(conv(x_BCHW))
    weight, shift_C = _folded(conv, norm)
    return conv._conv_forward(x_BCHW, weight, shift_C)


_Fold = tuple[torch.Tensor, torch.Tensor]

_kept: dict[nn.Module, _Fold] | None = None


@contextlib.contextmanager
def folds_kept() -> Iterator[None]:
    """Inside, `conv_norm` folds each pair of layers once: for thousands of passes with weights that do not change."""
    global _kept
    outer, _kept = _kept, {}
    try:
        yield
    finally:
        _kept = outer


def _folded(conv: nn.Conv2d, norm: GlobalBatchNorm2d) -> _Fold:
    """Weight and bias of the convolution that does the work of both."""
    if _kept is not None and norm in _kept:
        return _kept[norm]
    assert conv.bias is None and norm.running_mean is not None and norm.running_var is not None
    factor_C = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    fold = conv.weight * factor_C[:, None, None, None], norm.bias - norm.running_mean * factor_C
    if _kept is not None:
        _kept[norm] = fold
    return fold


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
