"""The checkpoints of a run: saved whole or not at all, found again, and those of no more use deleted."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

from afa_dist.files import sync
from afa_dist.training.checkpoint import (
    MANIFEST,
    UNREADABLE,
    Checkpoint,
    DamagedCheckpoint,
    folder_name,
    read,
    step_of,
    verify,
    write,
)


class CheckpointStore:
    """The checkpoints of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, step: int) -> Path:
        return self.folder / folder_name(step)

    def steps(self) -> list[int]:
        """Steps a checkpoint directory exists for, ascending; not yet verified."""
        if not self.folder.is_dir():
            return []
        return sorted(step for entry in self.folder.iterdir() if (step := step_of(entry.name)) is not None)

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write aside, flush to the disk, rename: a reader never sees half a checkpoint."""
        target = self.path(checkpoint.step)
        aside = self.folder / f".{target.name}.tmp"
        shutil.rmtree(aside, ignore_errors=True)
        try:
            write(aside, checkpoint)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)  # on a full disk it would be in the way of the next one
            raise
        if target.exists():
            self.set_aside(checkpoint.step)
        aside.replace(target)
        sync(self.folder)
        return target

    def load(self, step: int, run: str = "") -> Checkpoint:
        """Load and verify one checkpoint.

        run: the run it must be of (`state["run"]`), or empty for any.

        Raises:
            DamagedCheckpoint: a file is missing, too many, has another length or hash, or cannot be read; a value is not
                finite; or it is another run's.
        """
        folder = self.path(step)
        try:
            checkpoint = read(folder, step)
        except UNREADABLE as error:
            raise DamagedCheckpoint(f"{folder} cannot be read: {type(error).__name__}: {error}") from error
        of = checkpoint.state.get("run", "")
        if run and of and of != run:
            raise DamagedCheckpoint(f"{folder} belongs to another run ({of}, this one is {run})")
        return checkpoint

    def is_whole(self, step: int) -> bool:
        """Whether the files of one checkpoint are all there and what its manifest says."""
        try:
            verify(self.path(step))
        except (*UNREADABLE, DamagedCheckpoint):
            return False
        return True

    def manifest(self, step: int) -> str:
        """The text of a checkpoint's manifest; empty where there is none."""
        try:
            return (self.path(step) / MANIFEST).read_text()
        except (OSError, ValueError):
            return ""

    def weights_sha256(self, checkpoint: Checkpoint) -> str:
        """SHA-256 of the file with the `weights` of a checkpoint that was loaded, and so verified."""
        manifest = json.loads((self.path(checkpoint.step) / MANIFEST).read_text())
        name = "averaged.safetensors" if checkpoint.averaged else "model.safetensors"
        return str(manifest["files"][name]["sha256"])

    def newest(self, run: str = "") -> Checkpoint | None:
        """The newest whole checkpoint of `run` (empty: any), with a warning for each that is passed over.

        Raises:
            DamagedCheckpoint: there are checkpoints, and none is whole. Starting over would lose the run silently.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                return self.load(step, run)
            except DamagedCheckpoint as error:
                warnings.warn(f"damaged checkpoint passed over: {error}", stacklevel=2)
        if steps:
            raise DamagedCheckpoint(f"none of the {len(steps)} checkpoints in {self.folder} is whole")
        return None

    def best(self) -> Checkpoint | None:
        """The checkpoint with the best validation score; with a warning the next best that is kept, if it is damaged, and
        the newest whole one if none is left."""
        newest = self.newest()
        if newest is None:
            return None
        best = newest.state.get("best")
        candidates = [entry["step"] for entry in newest.state.get("top", [best] if best else [])]
        present = set(self.steps())
        for step in candidates[:1] + [step for step in candidates[1:] if step in present]:
            try:
                return newest if step == newest.step else self.load(step)
            except DamagedCheckpoint as error:
                warnings.warn(f"the best checkpoint is damaged, the next best is used: {error}", stacklevel=2)
        return newest

    def set_aside_after(self, step: int) -> None:
        """Rename checkpoints newer than `step`, which a resume passed over because they are damaged.

        Left in place they would count as the newest, and whole ones would be deleted in their stead.
        """
        for newer in self.steps():
            if newer > step:
                self.set_aside(newer)

    def set_aside(self, step: int) -> None:
        """Rename the checkpoint of `step` so that it is none; it may be looked at."""
        target = self.path(step).with_name(f"{self.path(step).name}.damaged")
        shutil.rmtree(target, ignore_errors=True)
        self.path(step).replace(target)

    def prune(self, keep_last: int, for_good: Callable[[int], bool] = lambda step: False) -> None:
        """Delete all but the newest `keep_last`, the best ones that each of those knows, and those kept `for_good`."""
        steps = self.steps()
        kept = set(steps[-keep_last:]).union(*(self._best_known_to(step) for step in steps[-keep_last:]))
        for step in steps:
            if step not in kept and not for_good(step):
                shutil.rmtree(self.path(step), ignore_errors=True)

    def _best_known_to(self, step: int) -> set[int]:
        try:
            state = json.loads((self.path(step) / "state.json").read_text())
            return {int(entry["step"]) for entry in state.get("top", [state["best"]])}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return set()
