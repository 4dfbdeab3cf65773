"""Where the rows of metrics go: metrics.jsonl always, TensorBoard if wanted, and whoever watches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from afa_dist.training.run_dir import RunDirectory

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

OnRow = Callable[[Mapping[str, Any]], None]


class Recorder:
    """Writes the rows of one run. Made by the main worker alone, after `step` optimiser steps (0 for a fresh run).

    Rows after `step`, left by an attempt that was cut off, are dropped: they will be written again.
    """

    def __init__(self, directory: RunDirectory, step: int, tensorboard: bool, on_row: OnRow) -> None:
        self._directory = directory
        self._on_row = on_row
        self._board: SummaryWriter | None = None
        directory.rewind_metrics(step)
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # takes a second to import

            self._board = SummaryWriter(str(directory.path / "tensorboard"), purge_step=step + 1)

    def write(self, row: Mapping[str, Any]) -> None:
        """Record one row: step, epoch, of, phase and metrics."""
        self._directory.append_metrics(row)
        if self._board is not None:
            for name, value in row.items():
                if name not in ("step", "epoch", "of", "phase"):
                    self._board.add_scalar(f"{row['phase']}/{name}", value, row["step"])
        self._on_row(row)

    def close(self) -> None:
        if self._board is not None:
            self._board.close()
