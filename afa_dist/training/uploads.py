"""Checkpoints on their way to a mirror while training goes on."""

from __future__ import annotations

import contextlib
import queue
import threading
import warnings
from collections.abc import Iterator
from functools import partial

from afa_dist.address import without_options
from afa_dist.errors import TrainingError
from afa_dist.training.exchange import copy_up
from afa_dist.training.lease import Claim
from afa_dist.training.mirror import UNANSWERED, Mirror, words
from afa_dist.training.run_dir import RunDirectory


class Uploads:
    """Copies checkpoints beside the training. A mirror that fails does not stop it, and is tried again."""

    def __init__(self, address: str, directory: RunDirectory) -> None:
        self.address = address
        self.directory = directory
        self.trouble = ""
        """Why the last copy did not succeed."""
        self.lock = threading.Lock()
        """Held by whoever deletes checkpoints here; `holds` does not change meanwhile."""
        self._copying: int | None = None
        self._claim = Claim.of(directory)
        self._closing = False
        self._saved: set[int] = set()
        """Steps that were added and are not copied yet; the thread's own."""
        self._jobs: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="afa-dist-uploads", daemon=True)
        self._thread.start()

    def add(self, step: int) -> None:
        """Copy the checkpoint of `step` soon."""
        self._jobs.put(step)

    def holds(self, step: int) -> bool:
        """Whether the checkpoint of `step` is being copied, and must not be deleted here."""
        return self._copying == step

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
                copy_up(mirror, self.directory, anew=self._saved, check=partial(self._claim.check, mirror), held=self._held)
                self._saved.clear()
                self.trouble = ""
            except (*UNANSWERED, TrainingError) as error:
                first = not self.trouble
                self.trouble = f"{without_options(self.address)} lacks step {step}: {words(error)}"
                with contextlib.suppress(OSError):
                    self.directory.note_trouble(self.trouble)
                if first:
                    warnings.warn(f"{self.trouble}; training goes on, it is tried again", stacklevel=2)

    @contextlib.contextmanager
    def _held(self, step: int) -> Iterator[None]:
        with self.lock:
            self._copying = step
        try:
            yield
        finally:
            with self.lock:
                self._copying = None
