"""How a worker computes: what "auto" means on its device."""

from __future__ import annotations

import contextlib

import torch


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Whether network passes run under bf16 autocast: asked for, or "auto" on a GPU that has it."""
    if precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return precision == "bf16"


def compiles(option: str, device: torch.device) -> bool:
    """Whether the network is compiled: asked for, or "auto" on a GPU."""
    return option == "on" or (option == "auto" and device.type == "cuda")


def eagerly(option: str, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Runs what is inside uncompiled: passes in shapes that come once are not worth compiling."""
    # The compiler is imported only where it is used: that takes seconds.
    return torch.compiler.set_stance("force_eager") if compiles(option, device) else contextlib.nullcontext()
