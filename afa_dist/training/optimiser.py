"""The optimiser, and its state as named tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from afa_dist.config import AdamConfig, OptimiserConfig, UpdateConfig

_MOMENTUM = "momentum_buffer"
"""SGD's only state goes by the name of its parameter alone."""


def build_optimiser(named: Iterable[tuple[str, nn.Parameter]], config: UpdateConfig) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum, or AdamW, over `named`; weight decay on matrices and filters only.

    Vectors (biases, scales and shifts of normalisation layers) are left without decay: shrinking a scale does not
    simplify the function (Bag of Tricks, 1812.01187).
    """
    parameters = [parameter for _, parameter in named]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if isinstance(config, AdamConfig):
        return torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2))
    assert isinstance(config, OptimiserConfig)
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0)


def set_lr(optimiser: torch.optim.Optimizer, lr: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = lr


def state_tensors(optimiser: torch.optim.Optimizer, named: Iterable[tuple[str, nn.Parameter]]) -> dict[str, torch.Tensor]:
    """What the optimiser keeps of each parameter: SGD's momentum by the parameter's name, all else by NAME/STATE."""
    return {
        name if key == _MOMENTUM else f"{name}/{key}": value
        for name, parameter in named
        for key, value in optimiser.state.get(parameter, {}).items()
        if value is not None
    }


def load_state(
    optimiser: torch.optim.Optimizer, named: Iterable[tuple[str, nn.Parameter]], tensors: Mapping[str, torch.Tensor]
) -> None:
    """Put back what `state_tensors` gave."""
    parameters = dict(named)
    for full, value in tensors.items():
        name, _, key = full.partition("/")
        # AdamW counts its steps on the CPU, beside parameters wherever they are.
        found = value.to("cpu") if key == "step" else value.to(parameters[name])
        optimiser.state[parameters[name]][key or _MOMENTUM] = found.clone()
