"""A finished part of an analysis, as it is kept: a file that knows whose it is and whether it is whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from afa_dist.evaluation.checked_file import read_checked, write_checked
from afa_dist.evaluation.outcome import ForeignOutcome, identity_of


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

    def save(self, name: str, part: Part) -> None:
        """Write it."""
        text = json.dumps({"name": name, **self._identities(name), "figures": part.figures})
        write_checked(self.path(name), text, part.tensors)

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
        text, tensors = read_checked(path)
        kept = json.loads(text)
        now = {"name": name, **self._identities(name)}
        if any(kept[key] != value for key, value in now.items() if asked or key != "own"):
            raise ForeignOutcome(f"{path} was made by an analysis with other weights, images, options or versions")
        return Part(kept["figures"], tensors)

    def _identities(self, name: str) -> dict[str, str]:
        return {"identity": identity_of(self.facts), "own": identity_of(self.own.get(name, {}))}
