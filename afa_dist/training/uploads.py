"""Checkpoints on their way to a mirror while training goes on."""

from __future__ import annotations

import queue
import threading
import warnings

import pyarrow as pa

from afa_dist.errors import TrainingError
from afa_dist.training.lease import holder_of
from afa_dist.training.mirror import Mirror
from afa_dist.training.mirroring import words
from afa_dist.training.run_dir import RunDirectory


class Uploads:
    """Copies checkpoints beside the training. A mirror that fails does not stop it, and is tried again."""

    def __init__(self, address: str, directory: RunDirectory) -> None:
        self.address = address
        self.directory = directory
        self.trouble = ""
        """Why the last copy did not succeed."""
        self._closing = False
        self._saved: set[int] = set()
        """Steps that were added and are not copied yet; the thread's own."""
        self._jobs: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="afa-dist-uploads", daemon=True)
        self._thread.start()

    def add(self, step: int) -> None:
        """Copy the checkpoint of `step` soon."""
        self._jobs.put(step)

    def close(self) -> None:
        """Wait until all is copied that was added."""
        self._jobs.put(None)
        self._thread.join()

    def _newest_job(self) -> int | None:
        """The last step that was added, or None after it: a mirror that is slow or gone is not asked for each of them."""
        step = self._jobs.get() if not self._closing else None
        while step is not None and not self._jobs.empty():
            following = self._jobs.get()
            if following is None:
                self._closing = True
                break
            self._saved.add(step)
            step = following
        if step is not None:
            self._saved.add(step)
        return step

    def _work(self) -> None:
        mirror = None
        while (step := self._newest_job()) is not None:
            try:
                mirror = mirror or Mirror(self.address)
                self._copy(mirror)
                self._saved.clear()
                self.trouble = ""
            except (OSError, TrainingError, pa.ArrowException) as error:
                first = not self.trouble
                self.trouble = f"{mirror.place if mirror else self.address} lacks step {step}: {words(error)}"
                self.directory.note_trouble(self.trouble)
                if first:
                    warnings.warn(f"{self.trouble}; training goes on, it is tried again", stacklevel=2)

    def _copy(self, mirror: Mirror) -> None:
        holder = holder_of(mirror)
        if holder and holder != self.directory.last_start().get("start"):
            raise TrainingError("another process works on it now")
        mirror.update(self.directory, self._saved)
