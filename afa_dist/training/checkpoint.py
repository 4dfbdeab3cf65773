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
from collections.abc import Mapping
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

UNREADABLE = (OSError, KeyError, TypeError, ValueError, AttributeError, RecursionError, SafetensorError)
"""What reading a damaged file may raise."""

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


def write(folder: Path, checkpoint: Checkpoint) -> None:
    """Write all files of a checkpoint into a new folder, and flush them to the disk."""
    folder.mkdir(parents=True)
    write_tensors(folder / "model.safetensors", checkpoint.model)
    write_tensors(folder / "optimiser.safetensors", checkpoint.optimiser)
    if checkpoint.averaged:
        write_tensors(folder / "averaged.safetensors", checkpoint.averaged)
    write_json(folder / "state.json", {"step": checkpoint.step, **checkpoint.state})
    files = {entry.name: _describe(entry) for entry in sorted(folder.iterdir())}
    write_json(folder / MANIFEST, {"format": FORMAT, "files": files})
    sync(folder)


def verify(folder: Path) -> Mapping[str, Any]:
    """The files that the manifest names, all of which are what it says.

    Raises:
        DamagedCheckpoint, or whatever comes of a file that is missing or is no JSON (see `UNREADABLE`).
    """
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
    return dict(files)


def read(folder: Path, step: int) -> Checkpoint:
    """Load and verify; raises what `verify` does."""
    files = verify(folder)
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
