"""Where a run will compute: workers, devices and threads."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence

import torch

from afa_dist.config import ScalingConfig
from afa_dist.errors import UserError

OWN_CLUSTER = "AFA_DIST_OWN_CLUSTER"
"""Environment variable with the address of a cluster that this process started."""


@dataclasses.dataclass(frozen=True)
class Placement:
    """workers: 0 for this process (or those of torchrun), else Ray workers; of a range, as many as there is room for now.
    gpu: one GPU a worker. threads: CPU threads a worker. cluster: address of a running cluster, None for one of our own.
    """

    workers: int
    gpu: bool
    threads: int
    cluster: str | None = None

    @property
    def device(self) -> str:
        """What a worker computes on, for people."""
        return "GPU" if self.gpu else f"CPU, {self.threads} thread{'s' if self.threads > 1 else ''}"

    def describe(self) -> str:
        what = self.device
        if self.workers == 0:
            size = torchrun_size()
            return f"in this process ({what})" if size == 1 else f"in {size} processes of torchrun ({what} each)"
        where = f"the cluster at {self.cluster}" if self.cluster else "Ray on this machine"
        return f"{self.workers} worker{'s' if self.workers > 1 else ''} of {where} ({what} each)"


def torchrun_size() -> int:
    """Number of processes that torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Whether this process speaks for the run: always, except under torchrun on other ranks."""
    return int(os.environ.get("RANK", "0")) == 0


def addressed_cluster() -> str | None:
    """Address of a cluster that the user wants to be joined (RAY_ADDRESS)."""
    address = os.environ.get("RAY_ADDRESS") or None
    return None if address == os.environ.get(OWN_CLUSTER) else address


def place_here(scaling: ScalingConfig) -> Placement | None:
    """The placement of a run that needs no Ray, or None when it takes Ray workers.

    Raises:
        UserError: Ray workers or GPUs are asked for where they cannot be had.
    """
    gpus = torch.cuda.device_count()
    if torchrun_size() > 1 and scaling.most > 0:
        what = f"{scaling.workers} Ray workers cannot be started from each process of torchrun; set 0, or leave torchrun"
        raise UserError.one("scaling.workers", what)
    ray_by_default = addressed_cluster() is not None or (gpus > 1 and scaling.device != "cpu")
    if torchrun_size() == 1 and (scaling.most > 0 or (scaling.most < 0 and ray_by_default)):
        return None
    if scaling.device == "gpu" and gpus == 0:
        raise UserError.one("scaling.device", "gpu is not possible: torch sees no GPU here; use auto or cpu")
    share = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return Placement(0, scaling.device != "cpu" and gpus > 0, scaling.threads or max(1, cores() // share))


def place_on_nodes(
    scaling: ScalingConfig,
    nodes: Sequence[Mapping[str, float]],
    cluster: str | None,
    waits: bool = False,
    gpu_share: float = 1.0,
) -> Placement:
    """The placement of Ray workers on `nodes` (resources of each alive node: CPU, GPU, ...).

    waits: whoever asks waits until a range of workers has room, on nodes that may join the cluster. gpu_share: part of a
    GPU that a worker takes.

    Raises:
        UserError: the nodes can never hold what is asked for. Ray itself would wait for it forever.
    """
    parts = parts_of(gpu_share)
    nodes = in_parts(nodes, parts)
    gpus = int(sum(node["GPU"] for node in nodes))
    workers = scaling.fewest if scaling.fewest > 0 else max(1, gpus if scaling.device != "cpu" else 1)
    gpu = scaling.device == "gpu" or (scaling.device == "auto" and gpus >= workers)
    if scaling.elastic:
        workers = max(workers, min(scaling.most, room(nodes, scaling.threads or 1, gpu)))
    threads = scaling.threads or widest(nodes, workers, gpu)
    if room(nodes, threads, gpu) < workers and not (waits and scaling.elastic and cluster):
        need = f"{threads} CPU{'s' if threads > 1 else ''}" + (" and a GPU" if gpu else "")
        have = ", ".join(f"{node.get('CPU', 0):g} CPUs and {node['GPU'] / parts:g} GPUs" for node in nodes)
        what = f"{workers} workers with {need} each do not fit: the nodes have {have}"
        what += "; lower it or scaling.threads" + (", or set scaling.device cpu" if gpu else "")
        raise UserError.one("scaling.workers", what)
    return Placement(workers, gpu, threads, cluster)


def parts_of(gpu_share: float) -> int:
    """How many workers that take such a part of a GPU are on one."""
    return math.floor(1 / gpu_share + 1e-9)


def in_parts(nodes: Sequence[Mapping[str, float]], parts: int) -> list[dict[str, float]]:
    """`nodes` with each GPU counted as so many."""
    return [{**node, "GPU": int(node.get("GPU", 0)) * parts} for node in nodes]


def room(nodes: Sequence[Mapping[str, float]], threads: int, gpu: bool) -> int:
    """How many workers fit; one never spans two nodes."""
    fits = [int(node.get("CPU", 0) // threads) for node in nodes]
    if gpu:
        fits = [min(fit, int(node.get("GPU", 0))) for fit, node in zip(fits, nodes, strict=True)]
    return sum(fits)


def room_for(scaling: ScalingConfig, nodes: Sequence[Mapping[str, float]], gpu_share: float = 1.0) -> int:
    """How many workers of `scaling` fit, on GPUs only if it says so."""
    return room(in_parts(nodes, parts_of(gpu_share)), scaling.threads or 1, scaling.device == "gpu")


def widest(nodes: Sequence[Mapping[str, float]], workers: int, gpu: bool) -> int:
    """The most threads a worker can have with all workers in place; 1 if even that does not fit."""
    most = int(max((node.get("CPU", 0) for node in nodes), default=1))
    return next((threads for threads in range(most, 0, -1) if room(nodes, threads, gpu) >= workers), 1)


def memory_given() -> int | None:
    """Bytes that a Slurm job was given on this node; None outside of one, or where Slurm does not count memory."""
    per_node, per_cpu = os.environ.get("SLURM_MEM_PER_NODE", ""), os.environ.get("SLURM_MEM_PER_CPU", "")
    megabytes = int(per_node) if per_node.isdigit() else int(per_cpu) * cores() if per_cpu.isdigit() else 0
    return megabytes * 2**20 or None


def cores() -> int:
    """Cores that this process may use; in a Slurm job no more than it was given, whether or not Slurm binds it to them."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    given = os.environ.get("SLURM_CPUS_PER_TASK") or os.environ.get("SLURM_CPUS_ON_NODE") or ""
    return min(found, int(given)) if given.isdigit() and int(given) else found
