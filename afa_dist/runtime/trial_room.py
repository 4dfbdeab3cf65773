"""Where trials compute: how large one is, and how many there is room for, so that none waits for its own workers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from afa_dist.config import ScalingConfig
from afa_dist.config.tune import TuneConfig
from afa_dist.errors import UserError
from afa_dist.runtime.placement import Placement, in_parts, parts_of, room


@dataclasses.dataclass(frozen=True)
class TrialRoom:
    """placement: of one trial; 0 workers if it trains in its own process. at_once: trials."""

    placement: Placement
    at_once: int
    gpus: float = 1.0
    """Part of a GPU that a trial of one worker takes."""

    @property
    def wide(self) -> bool:
        """Whether a trial has workers beside its own process."""
        return self.placement.workers > 1

    @property
    def resources(self) -> dict[str, float]:
        """What Ray sets aside for a trial's own process. That of a wide one takes nothing, or it would take it from its
        workers; the mark of the head node keeps it from nodes that may leave.
        """
        if self.wide:
            return {"node:__internal_head__": 0.001}
        return {"CPU": float(self.placement.threads), **({"GPU": self.gpus} if self.placement.gpu else {})}

    def describe(self) -> str:
        each = self.placement.device
        own = f"{self.placement.workers} workers ({each} each)" if self.wide else f"one process ({each})"
        return f"{self.at_once} trial{'s' if self.at_once > 1 else ''} at once, each in {own}"


def trial_room(
    scaling: ScalingConfig,
    nodes: Sequence[Mapping[str, float]],
    cluster: str | None,
    config: TuneConfig,
) -> TrialRoom:
    """The room for trials on `nodes` (resources of each alive node).

    scaling: of one trial; its workers are those of a trial.

    Raises:
        UserError: one trial, or as many at once as are asked for, can never fit; with the arithmetic.
    """
    workers, at_once = max(1, scaling.fewest), config.at_once
    share = config.trial_gpus if workers == 1 else 1.0
    gpus = sum(node.get("GPU", 0) for node in nodes)
    gpu = scaling.device == "gpu" or (scaling.device == "auto" and gpus >= workers)
    parts = parts_of(share)
    threads = scaling.threads or _threads(nodes, gpu, parts)
    fitting = room(in_parts(nodes, parts), threads, gpu)
    need = f"{workers} worker{'s' if workers > 1 else ''} x {threads} CPU{'s' if threads > 1 else ''}"
    need += f" and {'a GPU' if share == 1 else f'{share:g} GPUs'} each" if gpu else ""
    have = ", ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes)
    if fitting < workers:
        what = f"a trial takes {need}, for which there is no room: the nodes have {have}, so {fitting} workers fit"
        raise UserError.one(
            "scaling.workers", f"{what}; lower it or scaling.threads" + (", or set scaling.device cpu" if gpu else "")
        )
    if at_once * workers > fitting:
        what = f"{at_once} trials of {need} are {at_once * workers} workers, but the nodes have {have}: {fitting} fit"
        raise UserError.one("at_once", f"{what}; use at most {fitting // workers}, or 0")
    most = config.population.size if config.search == "pbt" else config.max_trials
    placement = Placement(workers if workers > 1 else 0, gpu, threads, cluster)
    return TrialRoom(placement, at_once or min(fitting // workers, most), share)


def _threads(nodes: Sequence[Mapping[str, float]], gpu: bool, parts: int) -> int:
    """One CPU a trial; beside GPUs, the CPUs that come to each of their parts."""
    each = [int(node.get("CPU", 0) // (node["GPU"] * parts)) for node in nodes if node.get("GPU", 0) >= 1]
    return max(1, min(each)) if gpu and each else 1
