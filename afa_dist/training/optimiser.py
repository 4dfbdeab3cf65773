"""The optimiser, and its state as named tensors."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from afa_dist.config import OptimiserConfig


def build_optimiser(named: Iterable[tuple[str, nn.Parameter]], config: OptimiserConfig) -> torch.optim.SGD:
    """SGD with Nesterov momentum over `named`; weight decay on matrices and filters only.

    Vectors (biases, scales and shifts of normalisation layers) are left without decay: shrinking a scale does not
    simplify the function (Bag of Tricks, 1812.01187).
    """
    parameters = [parameter for _, parameter in named]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(
        [group for group in groups if group["params"]],
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.momentum > 0,
    )


def set_lr(optimiser: torch.optim.Optimizer, lr: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = lr


def momentum_tensors(optimiser: torch.optim.SGD, named: Iterable[tuple[str, nn.Parameter]]) -> dict[str, torch.Tensor]:
    """The momentum buffer of each parameter that has one, by the parameter's name."""
    buffers = {}
    for name, parameter in named:
        buffer = optimiser.state.get(parameter, {}).get("momentum_buffer")
        if buffer is not None:
            buffers[name] = buffer
    return buffers


def load_momentum(
    optimiser: torch.optim.SGD, named: Iterable[tuple[str, nn.Parameter]], buffers: dict[str, torch.Tensor]
) -> None:
    """Put back what `momentum_tensors` gave."""
    for name, parameter in named:
        if name in buffers:
            optimiser.state[parameter]["momentum_buffer"] = buffers[name].to(parameter)
