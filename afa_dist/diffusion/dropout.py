"""Dropout whose masks do not depend on how many workers share a batch."""

from __future__ import annotations

import torch
from torch import nn

from afa_dist.distributed import SlicedRandom


class SlicedDropout(nn.Module):
    """`nn.Dropout` that draws from `random`, which whoever trains sets anew before each pass."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        self.random: SlicedRandom | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x
        assert self.random is not None and self.random.count == len(x)
        kept = self.random.uniform(*x.shape[1:]) >= self.share
        return x * kept.to(x.dtype) / (1 - self.share)


def with_sliced_dropout(net: nn.Module) -> list[SlicedDropout]:
    """Put a `SlicedDropout` in the place of each `nn.Dropout` in `net` that drops anything; returns them."""
    made = []
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Dropout) and child.p > 0:
                made.append(SlicedDropout(child.p))
                setattr(module, name, made[-1])
    return made
