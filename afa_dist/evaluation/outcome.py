"""What one attack did to one shard, as it is kept: a file that knows whose it is and whether it is whole.

Legend: N images of the shard, R of them broken, C channels, H height, W width.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from afa_dist.evaluation.checked_file import DamagedOutcome, read_checked, write_checked

CLEAN = "clean"
"""The first outcome of each shard: what the network makes of the images as they are."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What `name` (an attack, or `CLEAN`) did to the shard that begins with image `start`.

    attacked: which images were attacked (a hash of their numbers), and how many. seconds: what that took.
    tensors: for `CLEAN` labels_N, predictions_N, margins_N; for an attack indices_R (in the test set), x_adv_RCHW,
    predictions_R and margins_R there. A margin is the right logit minus the best wrong one.
    """

    name: str
    start: int
    attacked: str
    count: int
    seconds: float
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

    def save(self, outcome: Outcome) -> None:
        """Write it."""
        facts = {name: getattr(outcome, name) for name in _FACTS} | {"identity": self.identity}
        write_checked(self.path(outcome.start, outcome.name), json.dumps(facts, sort_keys=True), outcome.tensors)

    def load(self, start: int, name: str) -> Outcome | None:
        """The outcome of `name` on the shard at `start`, or None if there is none.

        Raises:
            DamagedOutcome: the file is not whole.
            ForeignOutcome: it belongs to another evaluation.
        """
        path = self.path(start, name)
        if not path.exists():
            return None
        text, tensors = read_checked(path)
        facts = json.loads(text)
        if facts.pop("identity") != self.identity:
            raise ForeignOutcome(f"{path} was made by an evaluation with other weights, images, options or versions")
        if (facts["start"], facts["name"]) != (start, name):
            raise DamagedOutcome(f"{path} holds what belongs into {self.path(facts['start'], facts['name']).name}")
        return Outcome(tensors=tensors, **facts)

    def in_order(self, start: int, stop: int, names: Iterable[str]) -> Iterator[Outcome]:
        """The outcomes of `names` on the shard start .. stop-1, each of what the ones before it left, as long as anything
        stands.

        Raises:
            DamagedOutcome: one is gone, not whole, or of other images than the ones before it left.
            ForeignOutcome: one belongs to another evaluation.
        """
        standing = np.arange(start, stop)
        for name in names:
            if len(standing) == 0:
                return
            outcome = self.load(start, name)
            if outcome is None or outcome.attacked != attacked_hash(standing):
                raise DamagedOutcome(f"{self.path(start, name)} is gone, or does not fit those before it")
            yield outcome
            standing = np.setdiff1d(standing, outcome.broken)


_FACTS = ("name", "start", "attacked", "count", "seconds")


def identity_of(facts: Mapping[str, Any]) -> str:
    """One word for all that outcomes depend on; answers of a network are compared, but not to the last digit."""
    facts = {key: value for key, value in facts.items() if key != "answers"}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
