"""A finished part of an analysis, as it is kept: a file that knows whose it is and whether it is whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from afa_dist.evaluation.outcome import DamagedOutcome, ForeignOutcome, identity_of
from afa_dist.files import write_aside


class Part(NamedTuple):
    """figures: JSON, what analysis.json says of it. tensors: what arrays.safetensors holds of it (and more)."""

    figures: dict[str, Any]
    tensors: dict[str, torch.Tensor]


class PartStore:
    """Parts of one analysis in a folder. A file appears whole or not at all, and is checked when it is read.

    facts: all that every part depends on. own: by part, what it alone depends on beside.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any], own: Mapping[str, Mapping[str, Any]]) -> None:
        self.folder = folder
        self.facts = facts
        self.own = own

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def save(self, name: str, part: Part) -> Path:
        """Write it; returns the file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in part.tensors.items()}
        text = json.dumps({"name": name, **self._identities(name), "figures": part.figures})
        metadata = {"part": text, "sha256": _digest(text, tensors)}
        path = self.path(name)
        write_aside(path, lambda aside: save_file(tensors, aside, metadata))
        return path

    def load(self, name: str, asked: bool) -> Part | None:
        """The part, or None if there is none.

        asked: whether this start asks for it, and so knows what it alone depends on.

        Raises:
            DamagedOutcome: the file is not whole.
            ForeignOutcome: it belongs to another analysis.
        """
        path = self.path(name)
        if not path.exists():
            return None
        kept, tensors = _read(path)
        now = {"name": name, **self._identities(name)}
        if any(kept[key] != value for key, value in now.items() if asked or key != "own"):
            raise ForeignOutcome(f"{path} was made by an analysis with other weights, images, options or versions")
        return Part(kept["figures"], tensors)

    def _identities(self, name: str) -> dict[str, str]:
        return {"identity": identity_of(self.facts), "own": identity_of(self.own.get(name, {}))}


def _read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        facts = json.loads(metadata["part"])
        whole = metadata["sha256"] == _digest(metadata["part"], tensors)
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise DamagedOutcome(f"{path} is damaged: {(str(error).splitlines() or ['unreadable'])[0]}") from error
    if not whole:
        raise DamagedOutcome(f"{path} is damaged: its content has another hash")
    return facts, tensors


def _digest(text: str, tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
