"""Checkpoints that are whole or are not there: safetensors and JSON, a manifest with hashes, one rename.

    checkpoints/step-00000440/
        model.safetensors       weights and buffers of the network
        optimiser.safetensors   momentum, by parameter name
        averaged.safetensors    the averaged network, if weights are averaged
        state.json              step, best score so far, which run it is of
        manifest.json           bytes and SHA-256 of the other files

Nothing is ever unpickled. What is loaded is all there, is what was written, belongs to the run, and is finite.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from afa_dist.distributed import World
from afa_dist.errors import TrainingError
from afa_dist.files import sha256, sync, write_json, write_tensors

FORMAT = 1
MANIFEST = "manifest.json"
KNOWN = {"model.safetensors", "optimiser.safetensors", "averaged.safetensors", "state.json"}
"""Files a manifest may name: a path that leads elsewhere is none of them."""

_NAME = re.compile(r"step-(\d{8,})")


def folder_name(step: int) -> str:
    """The name of the folder of a checkpoint."""
    return f"step-{step:08d}"


def step_of(name: str) -> int | None:
    """The step of the checkpoint in a folder of that name; None if it is the name of none."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else None


class DamagedCheckpoint(TrainingError):
    """A checkpoint directory that is not what its manifest says."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """All of a training state. step: optimiser steps done. state: whatever JSON the loop keeps beside the tensors.
    averaged: the averaged network (ema.decay > 0), or empty."""

    step: int
    model: Mapping[str, torch.Tensor]
    optimiser: Mapping[str, torch.Tensor]
    state: Mapping[str, Any]
    averaged: Mapping[str, torch.Tensor] = dataclasses.field(default_factory=dict)

    @property
    def weights(self) -> Mapping[str, torch.Tensor]:
        """The network to use: the averaged one if there is one."""
        return self.averaged or self.model


def of_main_worker(checkpoint: Checkpoint | None, world: World) -> Checkpoint | None:
    """The main worker's `checkpoint`, on all workers."""
    head = world.said([checkpoint.step, dict(checkpoint.state)] if checkpoint is not None else None)
    if head is None:
        return None
    parts = ("model", "optimiser", "averaged")
    tensors = [world.given(getattr(checkpoint, part) if checkpoint is not None else {}) for part in parts]
    return Checkpoint(head[0], tensors[0], tensors[1], head[1], tensors[2])


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
            _write(aside, checkpoint)
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
            checkpoint = _read(folder, step)
        except (OSError, KeyError, TypeError, ValueError, AttributeError, RecursionError, SafetensorError) as error:
            raise DamagedCheckpoint(f"{folder} cannot be read: {type(error).__name__}: {error}") from error
        of = checkpoint.state.get("run", "")
        if run and of and of != run:
            raise DamagedCheckpoint(f"{folder} belongs to another run ({of}, this one is {run})")
        return checkpoint

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


def _write(folder: Path, checkpoint: Checkpoint) -> None:
    folder.mkdir(parents=True)
    write_tensors(folder / "model.safetensors", checkpoint.model)
    write_tensors(folder / "optimiser.safetensors", checkpoint.optimiser)
    if checkpoint.averaged:
        write_tensors(folder / "averaged.safetensors", checkpoint.averaged)
    write_json(folder / "state.json", {"step": checkpoint.step, **checkpoint.state})
    files = {entry.name: _describe(entry) for entry in sorted(folder.iterdir())}
    write_json(folder / MANIFEST, {"format": FORMAT, "files": files})
    sync(folder)


def _read(folder: Path, step: int) -> Checkpoint:
    manifest = json.loads((folder / MANIFEST).read_text())
    if manifest["format"] != FORMAT:
        raise DamagedCheckpoint(f"{folder}: format {manifest['format']}, this version reads {FORMAT}")
    files = manifest["files"]
    if unknown := set(files) - KNOWN:
        raise DamagedCheckpoint(f"{folder / 'manifest.json'} names {', '.join(map(repr, sorted(unknown)))}")
    if foreign := {entry.name for entry in folder.iterdir()} - {*files, MANIFEST}:
        raise DamagedCheckpoint(f"{folder} holds {', '.join(sorted(foreign))}, which the manifest does not know")
    for name, expected in files.items():
        if _describe(folder / name) != expected:
            raise DamagedCheckpoint(f"{folder / name} is not what the manifest says")
    state = json.loads((folder / "state.json").read_text())
    if state["step"] != step:
        raise DamagedCheckpoint(f"{folder} holds step {state['step']}")
    parts = {name: load_file(folder / f"{name}.safetensors") for name in ("model", "optimiser")}
    parts["averaged"] = load_file(folder / "averaged.safetensors") if "averaged.safetensors" in files else {}
    for part, tensors in parts.items():
        if bad := first_not_finite(tensors):
            raise DamagedCheckpoint(f"{folder / part}.safetensors has values that are not finite, in {bad}")
    return Checkpoint(step, parts["model"], parts["optimiser"], state, parts["averaged"])


def first_not_finite(tensors: Mapping[str, torch.Tensor]) -> str:
    """The name of the first of `tensors` with a value that is not finite, or an empty text."""
    return next((name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()), "")


def _describe(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}
