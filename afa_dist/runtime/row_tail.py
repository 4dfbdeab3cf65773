"""Progress of a run whose rows other processes write."""

from __future__ import annotations

import threading

from afa_dist.training.recorder import OnRow
from afa_dist.training.run_dir import RunDirectory


class RowTail(threading.Thread):
    """Hands rows of a growing metrics.jsonl to `on_row`: progress on the driver without talk between processes."""

    def __init__(self, directory: RunDirectory, on_row: OnRow, interval_seconds: float = 0.5) -> None:
        super().__init__(daemon=True)
        self.directory = directory
        self.on_row = on_row
        self.interval_seconds = interval_seconds
        self._ended = threading.Event()
        self._seen = len(directory.metrics())

    def __enter__(self) -> RowTail:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self.join()

    def run(self) -> None:
        while not self._ended.wait(self.interval_seconds):
            self._drain()
        self._drain()

    def _drain(self) -> None:
        rows = self.directory.metrics()
        # After a restart the file is cut back to the last checkpoint and grows again.
        self._seen = min(self._seen, len(rows))
        for row in rows[self._seen :]:
            self.on_row(row)
        self._seen = len(rows)
