"""Words and lines for people. Imports quickly: whoever only says something does not wait for torch."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

# A log file has no width to wrap tables at.
out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 120)


def say(what: str | Table) -> None:
    """Print a line or a table; paths and names are shown as they are, not read as markup."""
    out.print(what, markup=False)


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def counted(number: int, what: str) -> str:
    """1 epoch, 2 epochs, 2 classes, 2 batches."""
    plural = "es" if what.endswith(("s", "tch")) else "s"
    return f"{number} {what}{'' if number == 1 else plural}"


def describe_row(row: Mapping[str, Any]) -> str:
    """The metrics of a row, short: accuracies as per cent, the rest with four digits."""
    skip = ("step", "epoch", "of", "phase", "lr", "eps")
    parts = []
    for name, value in row.items():
        if name in skip:
            continue
        shown = percent(value) if name.endswith("_acc") else f"{value:.4g}"
        parts.append(f"{name.removesuffix('_acc').replace('_', ' ')} {shown}")
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """Roughly how long, as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
