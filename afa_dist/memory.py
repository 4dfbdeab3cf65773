"""What becomes of memory that a process frees: kept for the next step, or given back to the system.

glibc only; elsewhere nothing happens, nor where the user has set MALLOC_ variables.
"""

from __future__ import annotations

import contextlib
import ctypes
import os

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt(3)."""


def keep_freed_memory() -> None:
    """Let this process keep what it frees, for the next step: activations of 32 MiB and more are else given back to the
    system, and filled with zeros page by page when they are asked for again, a fifth to a quarter of a step of a
    ResNet-18 on a CPU (docs/performance.md). Memory stays at its peak.
    """
    _set(mmap_threshold=2**31 - 1, trim_threshold=2**31 - 1)


def give_back_freed_memory() -> None:
    """Let this process give back what it frees of 1 MiB and more, for work whose pieces differ in size: by default pieces
    of up to 32 MiB are kept, wherever they happen to lie."""
    _set(mmap_threshold=1 << 20, trim_threshold=1 << 20)


def _set(*, mmap_threshold: int, trim_threshold: int) -> None:
    if any(name in os.environ for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")):
        return
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, mmap_threshold)
        mallopt(_M_TRIM_THRESHOLD, trim_threshold)
