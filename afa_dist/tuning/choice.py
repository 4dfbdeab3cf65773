"""What a search has found: its front on held-out images, and the trials that a person may want.

Everything here is chosen by held-out images alone; test images are for what comes after.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from afa_dist.config.requirement import Requirement
from afa_dist.tuning.front import front_of, knee_of
from afa_dist.tuning.record import Trial, finished, point_of


@dataclasses.dataclass(frozen=True)
class Found:
    """front: trials that no other one beats, by ascending clean accuracy. knee: the one of it to take if nothing else is
    said. required: of those that meet the requirement, the one with the best other accuracy; None without one.
    """

    front: Sequence[Trial]
    knee: Trial
    required: Trial | None

    def roles(self, trial: Trial) -> list[str]:
        """What a trial was chosen as."""
        return [name for name, other in (("knee", self.knee), ("required", self.required)) if other is trial]


def found_in(trials: Sequence[Trial], requirement: Requirement | None) -> Found | None:
    """None where no trial came to its end."""
    done = finished(trials)
    points = [point_of(trial) for trial in done]
    place = knee_of(points)
    if place is None:
        return None
    required = None
    if requirement is not None:
        meeting = [trial for trial in done if (getattr(trial, requirement.accuracy) or 0.0) >= requirement.least]
        order = (requirement.other, requirement.accuracy)
        required = max(meeting, key=lambda t: (*(getattr(t, name) for name in order), -t.number), default=None)
    return Found([done[i] for i in front_of(points)], done[place], required)
