"""Which images of a global batch are real and which generated: a function of (seed, epoch, step) alone.

The images of an epoch stand in one line, batch after batch. With a share f of generated ones the image at place q is
generated if floor((q + 1) f) is one more than floor(q f): so every run of n places holds n f of them, rounded down or up,
every batch does, and so does every worker's part of it. An epoch is one pass over the real images, as far as they fill
batches; generated ones go on from epoch to epoch, and are shuffled anew when all have been seen.
"""

from __future__ import annotations

import dataclasses
import functools
from fractions import Fraction

import numpy as np

from afa_dist.data.order import shuffled


@dataclasses.dataclass(frozen=True)
class Mixture:
    """real, generated: numbers of images. batch_size: global. share: of generated images, 0 to 1; at 1 an epoch has as many
    places as there are real images."""

    real: int
    generated: int
    batch_size: int
    share: Fraction

    @staticmethod
    def of(real: int, generated: int, batch_size: int, share: float) -> Mixture:
        """share: as people write it; 0.7 is 7/10, not the nearest binary number."""
        return Mixture(real, generated, batch_size, Fraction(repr(share)) if generated else Fraction(0))

    @functools.cached_property
    def steps_per_epoch(self) -> int:
        """As many batches as the real images fill; 0 if they are too few for one."""
        if self.share == 1:
            return self.real // self.batch_size
        steps = int(self.real / (1 - self.share)) // self.batch_size + 2
        while self._real_before(steps * self.batch_size) > self.real:
            steps -= 1
        return steps

    def _generated_before(self, place: int) -> int:
        return place * self.share.numerator // self.share.denominator

    def _real_before(self, place: int) -> int:
        return place - self._generated_before(place)

    def rows(self, seed: int, step: int) -> np.ndarray:
        """Rows of the global batch of `step`, in order (batch_size,): those of real images from 0 on, those of generated
        images as -1 - row."""
        epoch, offset = divmod(step, self.steps_per_epoch)
        first = offset * self.batch_size
        if not self.share:
            return shuffled("order", seed, epoch, self.real, np.arange(first, first + self.batch_size))
        # Python's whole numbers: the denominator of a share such as 2/3 = 0.6666666666666666 has 16 digits.
        before = np.array([self._generated_before(first + place) for place in range(self.batch_size + 1)])
        is_generated = np.diff(before) > 0
        drawn = epoch * self._generated_before(self.steps_per_epoch * self.batch_size) + before[:-1]
        rows = np.empty(self.batch_size, dtype=np.int64)
        rows[is_generated] = -1 - self._generated_rows(seed, drawn[is_generated])
        places = (np.arange(first, first + self.batch_size) - before[:-1])[~is_generated]
        rows[~is_generated] = shuffled("order", seed, epoch, self.real, places)
        return rows

    def _generated_rows(self, seed: int, drawn: np.ndarray) -> np.ndarray:
        """Rows of the generated images that are drawn as number `drawn` of the run."""
        turns, places = np.divmod(drawn, self.generated)
        rows = np.empty_like(drawn)
        for turn in np.unique(turns):
            own = turns == turn
            rows[own] = shuffled("generated", seed, int(turn), self.generated, places[own])
        return rows
