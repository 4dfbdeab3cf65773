"""What one attack did to one shard, as it is kept: a file that knows whose it is and whether it is whole.

Legend: N images of the shard, R of them broken, C channels, H height, W width.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from afa_dist.files import write_aside

CLEAN = "clean"
"""The first outcome of each shard: what the network makes of the images as they are."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What `name` (an attack, or `CLEAN`) did to the shard that begins with image `start`.

    attacked: which images were attacked (a hash of their numbers), and how many. seconds: what that took, on device.
    tensors: for `CLEAN` labels_N, predictions_N, margins_N; for an attack indices_R (in the test set), x_adv_RCHW,
    predictions_R and margins_R there. A margin is the right logit minus the best wrong one.
    """

    name: str
    start: int
    attacked: str
    count: int
    seconds: float
    device: str
    tensors: Mapping[str, torch.Tensor]

    @property
    def broken(self) -> np.ndarray:
        """Indices of the images that fell, in the test set."""
        if self.name == CLEAN:
            wrong = self.tensors["predictions_N"] != self.tensors["labels_N"]
            return wrong.nonzero().squeeze(1).numpy() + self.start
        return self.tensors["indices_R"].numpy()


def attacked_hash(indices: np.ndarray) -> str:
    """Tells sets of images apart."""
    return hashlib.sha256(np.ascontiguousarray(indices, dtype=np.int64).tobytes()).hexdigest()[:16]


class DamagedOutcome(ValueError):
    """A file that is not what was written."""


class ForeignOutcome(ValueError):
    """A whole file, of another evaluation."""


class OutcomeStore:
    """Outcomes of one evaluation in a folder. A file appears whole or not at all, and is checked when it is read.

    identity: hash of all that the outcomes depend on (`identity_of`).
    """

    def __init__(self, folder: Path, identity: str) -> None:
        self.folder = folder
        self.identity = identity

    def path(self, start: int, name: str) -> Path:
        return self.folder / f"{start:08d}-{name}.safetensors"

    def save(self, outcome: Outcome) -> Path:
        """Write it; returns the file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        facts = {name: getattr(outcome, name) for name in _FACTS} | {"identity": self.identity}
        text = json.dumps(facts, sort_keys=True)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in outcome.tensors.items()}
        metadata = {"outcome": text, "sha256": _digest(text, tensors)}
        path = self.path(outcome.start, outcome.name)
        write_aside(path, lambda aside: save_file(tensors, aside, metadata))
        return path

    def load(self, start: int, name: str) -> Outcome | None:
        """The outcome of `name` on the shard at `start`, or None if there is none.

        Raises:
            DamagedOutcome: the file is not whole.
            ForeignOutcome: it belongs to another evaluation.
        """
        path = self.path(start, name)
        if not path.exists():
            return None
        facts, tensors = _read(path)
        if facts.pop("identity") != self.identity:
            raise ForeignOutcome(f"{path} was made by an evaluation with other weights, images, options or versions")
        return Outcome(tensors=tensors, **facts)


_FACTS = ("name", "start", "attacked", "count", "seconds", "device")


def _read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        facts = json.loads(metadata["outcome"])
        if metadata["sha256"] != _digest(metadata["outcome"], tensors):
            raise DamagedOutcome(f"{path} is damaged: its content has another hash")
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        if isinstance(error, DamagedOutcome):
            raise
        raise DamagedOutcome(f"{path} is damaged: {str(error).splitlines()[0]}") from error
    return facts, tensors


def _digest(text: str, tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def identity_of(facts: Mapping[str, Any]) -> str:
    """One word for all that outcomes depend on."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
