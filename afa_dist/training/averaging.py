"""Exponential moving average of the weights."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from afa_dist.distributed import beat


class WeightAverage:
    """average <- d * average + (1 - d) * weights after every step, with d = min(decay, (1 + t) / (10 + t)) at step t.

    The ramp lets the average forget the initial weights quickly. Only parameters are averaged, in tensors of their own;
    buffers such as BatchNorm statistics are copied or recomputed when the average is used, so nothing of the network
    that is trained is ever shared with the average.
    """

    def __init__(self, named: Sequence[tuple[str, nn.Parameter]], decay: float) -> None:
        self._named = list(named)
        self.decay = decay
        self.weights = {name: parameter.detach().clone() for name, parameter in self._named}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step number `step` (from 0)."""
        keep = min(self.decay, (1 + step) / (10 + step))
        for name, parameter in self._named:
            self.weights[name].lerp_(parameter, 1 - keep)

    def load(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Put back what `weights` held; other names are ignored."""
        for name, value in self.weights.items():
            value.copy_(weights[name])

    @contextlib.contextmanager
    def applied(self, net: nn.Module) -> Iterator[None]:
        """Run `net` with the average; its own weights and buffers return afterwards, bit for bit."""
        with restored(net):
            with torch.no_grad():
                for name, parameter in self._named:
                    parameter.copy_(self.weights[name])
            yield


@contextlib.contextmanager
def restored(net: nn.Module) -> Iterator[None]:
    """Give parameters and buffers of `net` their present values back on leaving, however the inside ends."""
    tensors = [*net.parameters(), *net.buffers()]
    saved = [tensor.detach().clone() for tensor in tensors]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in zip(tensors, saved, strict=True):
                tensor.copy_(value)


@torch.no_grad()
def recompute_statistics(net: nn.Module, passes: Iterator[torch.Tensor], forward: Callable[[torch.Tensor], object]) -> None:
    """Replace the BatchNorm statistics of `net` by the average over `passes`, batches of images (B, C, H, W).

    Every worker passes its share of each batch; the layers take their statistics over all workers. Layers that are in
    evaluation mode (a frozen extractor) keep theirs.
    """
    layers = [m for m in net.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # torch's word for an average with equal weights
    try:
        for x_BCHW in passes if layers else ():
            forward(x_BCHW)
            beat()
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
