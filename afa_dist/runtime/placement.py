"""Where a run will compute: workers, devices and threads, decided before anything starts."""

from __future__ import annotations

import dataclasses
import os

import torch

from afa_dist.config import ScalingConfig

OWN_CLUSTER = "AFA_DIST_OWN_CLUSTER"
"""Environment variable with the address of a cluster that this process started."""


@dataclasses.dataclass(frozen=True)
class Placement:
    """workers: 0 for this process, else Ray workers. gpu: one GPU a worker. threads: CPU threads a worker."""

    workers: int
    gpu: bool
    threads: int
    cluster: str | None
    """Address of the running cluster to join; None starts one on this machine (if workers > 0)."""

    def describe(self) -> str:
        what = "GPU" if self.gpu else f"CPU, {self.threads} thread{'s' if self.threads > 1 else ''}"
        if self.workers == 0:
            return f"in this process ({what})"
        where = f"the cluster at {self.cluster}" if self.cluster else "Ray on this machine"
        return f"{self.workers} worker{'s' if self.workers > 1 else ''} of {where} ({what} each)"


def place(scaling: ScalingConfig) -> Placement:
    """Decide from `scaling`, this machine's GPUs, and RAY_ADDRESS.

    With a cluster addressed, its own resources decide about GPUs once it is joined; a driver without a GPU may use a
    cluster that has some, so `gpu` is settled again by `afa_dist.runtime.cluster`.
    """
    cluster = os.environ.get("RAY_ADDRESS") or None
    if cluster == os.environ.get(OWN_CLUSTER):
        cluster = None  # an earlier stage of this process started it
    gpus = torch.cuda.device_count()
    workers = scaling.workers
    if workers < 0:
        workers = max(gpus, 1) if cluster else (gpus if gpus > 1 else 0)
    return Placement(workers, gpus > 0, scaling.threads or default_threads(workers), cluster)


def default_threads(workers: int) -> int:
    """The cores this process may use, shared among the workers."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // max(1, workers))
