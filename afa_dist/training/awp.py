"""Adversarial weight perturbation: the training gradient is taken at the worst weights nearby."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

_TINY = 1e-20
"""Keeps a layer without gradient where it is."""


@contextlib.contextmanager
def worst_weights(
    parameters: Sequence[nn.Parameter], net: nn.Module, loss: Callable[[], torch.Tensor], gamma: float
) -> Iterator[None]:
    """Move the weights uphill on `loss` inside; on leaving they are what they were, bit for bit (Wu et al., 2004.05884).

    Each matrix or filter bank w moves by gamma * |w| * g / |g| along its gradient g, vectors (biases, normalisation)
    stay. `loss` makes one pass and must go through the DDP wrapper where there is one, so that all workers move alike;
    BatchNorm statistics do not see that pass. One gradient step, as in the paper's experiments.
    """
    moved = [p for p in parameters if p.dim() > 1]
    for parameter in parameters:
        parameter.grad = None
    with untouched_statistics(net):
        loss().backward()
    saved = [parameter.detach().clone() for parameter in moved]
    try:
        with torch.no_grad():
            for parameter in moved:
                if parameter.grad is not None:
                    scale = gamma * parameter.norm() / parameter.grad.norm().clamp(min=_TINY)
                    parameter.add_(parameter.grad * scale)
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(moved, saved, strict=True):
                parameter.copy_(value)


@contextlib.contextmanager
def untouched_statistics(net: nn.Module) -> Iterator[None]:
    """Let BatchNorm layers in training mode normalise by the batch without moving their running statistics."""
    layers = [m for m in net.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True
