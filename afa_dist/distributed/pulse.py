"""Signs of life: long work calls `beat` whenever a part of it is done, and a watchdog sees when nobody did for long."""

from __future__ import annotations

_beats = 0


def beat() -> None:
    """Note that something was done: a pass, a batch, a file. As cheap as adding one."""
    global _beats
    _beats += 1


def beats() -> int:
    """How often `beat` was called in this process."""
    return _beats
