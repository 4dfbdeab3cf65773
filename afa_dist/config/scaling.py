"""On how many workers of what kind a run computes, and which numbers of workers can share a batch."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Annotated, Literal

from afa_dist.config.fields import Section, setting
from afa_dist.errors import Problem
from afa_dist.slicing import SLICE

WorkerCount = Annotated[int | str, "worker count"]
"""A number of workers, or a range such as `2..8`."""

_RANGE = re.compile(r"(\d{1,6})\.\.(\d{1,6})")


def is_range(text: str) -> bool:
    """Whether `text` has the form of a range of numbers of workers."""
    return _RANGE.fullmatch(text.strip()) is not None


@dataclasses.dataclass(kw_only=True, frozen=True)
class ScalingConfig(Section):
    """On what it runs. Results do not depend on it, beyond rounding, but for `precision`."""

    workers: WorkerCount = setting(
        -1,
        "0 = in this process, without Ray; N = N DDP workers of Ray Train; A..B = as many of Ray's as there is room for, "
        "fewer when a node is lost, more when one is added; -1 = one a GPU where there are several or a cluster is "
        "addressed (RAY_ADDRESS), else 0",
        ge=-1,
    )
    device: Literal["auto", "cpu", "gpu"] = setting("auto", "what workers compute on; auto = GPUs if there is one for each")
    threads: int = setting(0, "CPU threads a worker; 0 = the cores there are, shared among the workers", ge=0)
    precision: Literal["auto", "fp32", "bf16", "fp64"] = setting(
        "auto",
        "arithmetic: bf16 autocast of network passes with fp32 losses (on GPUs that have it, by auto), fp32, or fp64 to "
        "check that results do not depend on the number of workers",
    )
    compile: Literal["auto", "on", "off"] = setting(
        "auto",
        "compile the network with torch.compile, for attack and outer pass; auto = on GPUs; validation is not compiled",
    )
    timeout_seconds: float = setting(
        300.0, "without progress of any worker for so long, those that hang or are gone are named and all end", ge=1
    )
    max_failures: int = setting(3, "restarts from the last checkpoint after a lost worker; Ray workers only", ge=0)
    resize_seconds: float = setting(60.0, "with a range of workers: seconds between two looks for room for more", ge=1)
    wait_seconds: float = setting(
        600.0,
        "how long to wait for room for the fewest workers when nodes were lost or are being started, before the run ends",
        ge=0,
    )
    autoscale: bool = setting(
        False,
        "the cluster starts machines that are asked for (KubeRay, ray up): ask for the most workers, begin with the fewest",
    )

    @property
    def elastic(self) -> bool:
        """Whether the number of workers may change while the run goes on."""
        return isinstance(self.workers, str)

    @property
    def fewest(self) -> int:
        """The least number of workers; negative or 0 as in `workers`."""
        return self._ends()[0]

    @property
    def most(self) -> int:
        """The greatest number of workers; negative or 0 as in `workers`."""
        return self._ends()[1]

    def _ends(self) -> tuple[int, int]:
        if isinstance(self.workers, int):
            return self.workers, self.workers
        match = _RANGE.fullmatch(self.workers.strip())
        return (int(match[1]), int(match[2])) if match else (0, 0)

    def problems(self) -> Iterator[Problem]:
        if self.elastic and not 1 <= self.fewest <= self.most:
            yield Problem("workers", f"{self.workers!r} is not {WORKER_COUNT_WORDS} (from 1, the smaller one first)")
        if self.autoscale and self.most < 1:
            yield Problem(
                "workers", f"{self.workers} does not say how many to ask for (autoscale); give a number or a range"
            )
        if self.autoscale and self.device == "auto":
            yield Problem("device", "auto depends on machines that are not there yet (autoscale); choose gpu or cpu")


WORKER_COUNT_WORDS = "a whole number or a range such as 2..8"


def sharing_counts(batch_size: int, fewest: int, most: int) -> list[int]:
    """The numbers of workers from `fewest` to `most` that can share a global batch, ascending.

    Each takes equally many images (means over workers are then means over images), in whole slices of the randomness.
    """
    return [count for count in range(max(1, fewest), most + 1) if count == 1 or batch_size % (count * SLICE) == 0]


def batch_problems(batch_size: int, fewest: int, most: int) -> Iterator[Problem]:
    """Why a global batch cannot be shared by any number of workers from `fewest` to `most`."""
    if most > 1 and not sharing_counts(batch_size, fewest, most):
        step = fewest * SLICE
        workers = f"{fewest}" if fewest == most else f"any of {fewest} to {most}"
        multiple = f"{step}, that is workers x {SLICE}" if fewest == most else f"workers x {SLICE}"
        yield Problem(
            "schedule.batch_size",
            f"{batch_size} cannot be shared by {workers} workers (scaling.workers): it must be a multiple of {multiple}; "
            f"for example {max(step, batch_size // step * step)}",
        )
