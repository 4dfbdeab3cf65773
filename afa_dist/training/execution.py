"""How a worker computes: what "auto" means on its device."""

from __future__ import annotations

import contextlib
import ctypes
import os

import torch

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt(3)."""


def keep_freed_memory() -> None:
    """Let this process keep what it frees, for the next step: activations of 32 MiB and more are else given back to the
    system, and filled with zeros page by page when they are asked for again, a fifth to a quarter of a step of a
    ResNet-18 on a CPU (docs/performance.md).

    Memory stays at its peak. glibc only; elsewhere nothing happens, nor where the user has set MALLOC_ variables.
    """
    if any(name in os.environ for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")):
        return
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, 2**31 - 1)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


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
