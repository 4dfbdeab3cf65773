"""What is to be done to which shard, in which order, and how long it will take.

Attack by attack, each on all shards before the next: an evaluation that is stopped has then measured its first attacks on
all images. A shard goes through the attacks in order, whatever the others do, so that no result depends on their number.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Callable, Sequence

import numpy as np

from afa_dist.config.attack_names import parse_attack
from afa_dist.evaluation.outcome import CLEAN, Outcome, attacked_hash


@dataclasses.dataclass(frozen=True, order=True)
class Unit:
    """One attack on one shard. stage: place of the attack among all of them, 0 for `CLEAN`. shard: its number."""

    stage: int
    shard: int


def shard_starts(images: int, shard_size: int) -> list[int]:
    """First image of each shard; shards depend on nothing but these two numbers."""
    return list(range(0, images, shard_size))


class Plan:
    """The units of an evaluation, which of them are done, and what stands.

    stored: gives the outcome of (start, name) if it was kept from before. shards: numbers of those to work on.
    """

    def __init__(
        self,
        images: int,
        shard_size: int,
        attacks: Sequence[str],
        classes: int,
        stored: Callable[[int, str], Outcome | None],
        shards: Sequence[int],
    ) -> None:
        self.names = [CLEAN, *attacks]
        self.starts = shard_starts(images, shard_size)
        self.shards = list(shards)
        self.standing = [np.arange(start, min(start + shard_size, images)) for start in self.starts]
        self.sizes = [len(standing) for standing in self.standing]
        self.stage = [0] * len(self.starts)
        self.costs = [1.0, *(_passes(name, classes) for name in attacks)]
        self._stored = stored
        self._ready: list[Unit] = []
        self._seen = [_Seen() for _ in self.names]
        for shard in self.shards:
            self._advance(shard)

    def take(self) -> Unit | None:
        """The next unit to work on, or None if all that can be begun is begun."""
        return heapq.heappop(self._ready) if self._ready else None

    def name(self, unit: Unit) -> str:
        return self.names[unit.stage]

    def start(self, unit: Unit) -> int:
        return self.starts[unit.shard]

    def done(self, unit: Unit, outcome: Outcome) -> None:
        """Note the outcome of a unit; makes the next one of its shard ready."""
        assert self.stage[unit.shard] == unit.stage
        self._seen[unit.stage].add(outcome, self.costs[unit.stage])
        self._apply(unit.shard, outcome)
        self._advance(unit.shard)

    @property
    def finished(self) -> bool:
        return all(self.stage[shard] == len(self.names) for shard in self.shards)

    def complete(self, stage: int) -> bool:
        """Whether all shards have been through `stage`."""
        return all(self.stage[shard] > stage for shard in self.shards)

    def _apply(self, shard: int, outcome: Outcome) -> None:
        self.standing[shard] = np.setdiff1d(self.standing[shard], outcome.broken)
        self.stage[shard] += 1

    def _advance(self, shard: int) -> None:
        """Go through what was kept; what comes next is ready, unless nothing stands that could be attacked."""
        while self.stage[shard] < len(self.names):
            if len(self.standing[shard]) == 0:
                self.stage[shard] = len(self.names)
                return
            outcome = self._stored(self.starts[shard], self.names[self.stage[shard]])
            if outcome is None or outcome.attacked != attacked_hash(self.standing[shard]):
                heapq.heappush(self._ready, Unit(self.stage[shard], shard))
                return
            self._seen[self.stage[shard]].add(outcome, self.costs[self.stage[shard]])
            self._apply(shard, outcome)

    # -- how long

    def work(self) -> tuple[float, float]:
        """Seconds of one worker: for all that is done, and about what is left, by the speed of what is done.

        Shards that are not so far are taken to lose as many images to an attack as those that are.
        """
        rate = self._rate()
        left = 0.0
        for shard in self.shards:
            standing = float(len(self.standing[shard]))
            for stage in range(self.stage[shard], len(self.names)):
                left += standing * self.costs[stage] * (self._seen[stage].rate or rate)
                standing *= self._seen[stage].survival
        return sum(seen.seconds for seen in self._seen), left

    def passes(self, unit: Unit) -> float:
        """About what a unit takes, in passes of one image."""
        return len(self.standing[unit.shard]) * self.costs[unit.stage]

    def seconds(self, unit: Unit) -> float:
        """About how long a unit takes, by the speed of what is done."""
        return self.passes(unit) * (self._seen[unit.stage].rate or self._rate())

    def _rate(self) -> float:
        """Seconds a pass and image, over all that was seen but the clean pass, which is too short to judge by."""
        seen = self._seen[1:] if any(seen.work for seen in self._seen[1:]) else self._seen
        work = sum(s.work for s in seen)
        return sum(s.seconds for s in seen) / work if work else 0.0

    def progress(self, unit: Unit | None) -> str:
        """Words for where the evaluation is."""
        stage = unit.stage if unit else len(self.names) - 1
        done = sum(self.stage[shard] > stage for shard in self.shards)
        standing = sum(len(self.standing[shard]) for shard in self.shards)
        images = sum(self.sizes[shard] for shard in self.shards)
        return f"{self.names[stage]}: shard {done}/{len(self.shards)}, {standing} of {images} images stand"


@dataclasses.dataclass
class _Seen:
    """What the finished units of one attack took and left."""

    seconds: float = 0.0
    work: float = 0.0
    attacked: int = 0
    fell: int = 0

    def add(self, outcome: Outcome, passes: float) -> None:
        self.seconds += outcome.seconds
        self.work += outcome.count * passes
        self.attacked += outcome.count
        self.fell += len(outcome.broken)

    @property
    def rate(self) -> float:
        return self.seconds / self.work if self.work else 0.0

    @property
    def survival(self) -> float:
        return 1.0 - self.fell / self.attacked if self.attacked else 1.0


def _passes(name: str, classes: int) -> float:
    attack = parse_attack(name)
    assert attack is not None, name
    return attack.passes(classes)
