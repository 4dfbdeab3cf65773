"""The state a model is put in while it is attacked, and put back from afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

BnPolicy = Literal["eval", "batch", "train"]


@contextlib.contextmanager
def attack_mode(model: nn.Module, bn: BnPolicy = "eval") -> Iterator[None]:
    """Freeze every parameter and set BatchNorm for an attack; restore modes and `requires_grad` on leaving.

    bn "eval": running statistics. "batch": statistics of the attacked batch, running statistics untouched.
    "train": plain training mode, running statistics move with every forward pass of the attack (known to collapse
    contrastive pre-training; kept for comparison).
    """
    modes = [(module, module.training) for module in model.modules()]
    needs_grad = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    tracking = [(m, m.track_running_stats) for m in model.modules() if isinstance(m, _BatchNorm)]
    try:
        model.train(bn == "train")
        for parameter, _ in needs_grad:
            parameter.requires_grad_(False)
        if bn == "batch":
            for bn_module, _ in tracking:
                # In training mode a layer that tracks nothing normalises by the batch and writes no buffer.
                bn_module.training = True
                bn_module.track_running_stats = False
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, flag in needs_grad:
            parameter.requires_grad_(flag)
        for bn_module, flag in tracking:
            bn_module.track_running_stats = flag
