"""What a run leaves on the disk while it trains, and what happens when it cannot be written."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from safetensors import SafetensorError

from afa_dist.config import TrainingRun
from afa_dist.distributed import World, beat
from afa_dist.errors import TrainingError
from afa_dist.training.agreement import agree
from afa_dist.training.checkpoint import Checkpoint, of_main_worker
from afa_dist.training.mirroring import mirror_address
from afa_dist.training.recorder import OnRow, Recorder
from afa_dist.training.run_dir import RunDirectory
from afa_dist.training.uploads import Uploads


class Storage:
    """One a worker; the main one writes, the others only hear of failures.

    A failure is kept until all call `check`: if the main worker ended alone, the others would wait for it.
    """

    def __init__(self, run: TrainingRun, directory: RunDirectory, world: World, on_row: OnRow) -> None:
        self._run = run
        self._directory = directory
        self._world = world
        self._on_row = on_row
        self._recorder: Recorder | None = None
        self._uploads: Uploads | None = None
        self._trouble = ""
        self._noted = time.monotonic()
        """When the time spent was last noted in the run directory."""

    def newest(self) -> Checkpoint | None:
        """The checkpoint to go on from; the main worker reads it for all, so that no other needs to see its folder."""
        checkpoint, error = None, None
        if self._world.is_main:
            try:
                checkpoint = self._directory.checkpoints.newest(self._directory.run_id)
            except TrainingError as found:
                error = found
        agree(self._world, error)
        checkpoint = of_main_worker(checkpoint, self._world)
        if self._world.is_main:
            step = checkpoint.step if checkpoint is not None else 0
            self._directory.checkpoints.set_aside_after(step)
            with self._kept_failure():
                self._directory.note_workers(step, self._world.size)
            if address := mirror_address(self._run):
                self._uploads = Uploads(address, self._directory)
            self._recorder = Recorder(self._directory, step, self._run.tracking.tensorboard, self._on_row)
        return checkpoint

    def row(self, row: Mapping[str, Any]) -> None:
        """Write a row of metrics."""
        if self._recorder is not None:
            with self._kept_failure():
                self._recorder.write(row)

    def checkpoint(self, checkpoint: Checkpoint, for_good: Callable[[int], bool]) -> None:
        """Save, delete what is too old and not kept `for_good`, and note the time that training took."""
        if self._world.is_main:
            with self._kept_failure():
                now = time.monotonic()
                self._directory.add_seconds(now - self._noted)
                self._noted = now
                self._directory.checkpoints.save(checkpoint)
                self._prune(for_good)
                if self._uploads is not None:
                    self._uploads.add(checkpoint.step)
        beat()

    def _prune(self, for_good: Callable[[int], bool]) -> None:
        store, keep_last, uploads = self._directory.checkpoints, self._run.checkpoint.keep_last, self._uploads
        if uploads is None:
            store.prune(keep_last, for_good)
            return
        with uploads.lock:
            store.prune(keep_last, lambda step: for_good(step) or uploads.holds(step))

    @contextlib.contextmanager
    def _kept_failure(self) -> Iterator[None]:
        try:
            yield
        except (OSError, SafetensorError) as error:
            self._trouble = self._trouble or f"{self._directory.path} cannot be written to: {error}"

    def check(self, step: int) -> None:
        """End the run on all workers if the main one could not write. All call it, after the same steps.

        Raises:
            TrainingError: it could not.
        """
        if self._world.all_true(not self._trouble)[0]:
            return
        trouble = next(filter(None, self._world.texts(self._trouble)))
        saved = self._directory.checkpoints.steps()
        rest = f"that of step {saved[-1]} is whole, the same command continues from it" if saved else "there is none"
        raise TrainingError(f"step {step}: {trouble}. No earlier checkpoint was touched: {rest}")

    def close(self) -> str:
        """Close the files, and wait for what is on its way to the mirror; returns what it lacks, or an empty text."""
        if self._recorder is not None:
            self._recorder.close()
        if self._uploads is None:
            return ""
        self._uploads.close()
        return self._uploads.trouble
