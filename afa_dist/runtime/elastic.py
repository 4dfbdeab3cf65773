"""How many workers a run can have on the nodes that a cluster has now, and waiting until there is room for enough.

A run with a range of workers has the greatest number that fits and can share the batch. Ray Train has elastic groups of its
own, but they take any number (a batch of 128 cannot be shared by 3), and grow by killing workers in the middle of their
steps. So each group of ours has a fixed size, and between two groups the run is saved.
"""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from afa_dist.config import TrainingRun
from afa_dist.config.scaling import sharing_counts
from afa_dist.runtime.placement import Placement, room, widest

Resources = Mapping[str, float]

ANSWER_SECONDS = 3.0
"""How long a node may take to answer."""

SETTLING_SECONDS = 5.0
"""How long resources of a group that has ended may take to be free again."""


def free_nodes(without: Collection[str] = ()) -> list[Resources]:
    """What is free on each node that answers, but for those named in `without`.

    Ray counts a machine that is gone as alive for up to half a minute, so each is asked.
    """
    import ray  # after the session's settings, as in `cluster`
    from ray._private.state import available_resources_per_node, state

    without = {*without, *state.get_draining_nodes()}  # Ray starts nothing on those that are about to leave
    alive = {node["NodeID"]: node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in without}
    with ThreadPoolExecutor(max_workers=32) as pool:
        answers = dict(zip(alive, pool.map(_answers, alive.values()), strict=True))
    return [free for node, free in available_resources_per_node().items() if answers.get(node)]


def _answers(node: Mapping[str, Any]) -> bool:
    """Whether the node's Ray process can be reached."""
    with contextlib.suppress(OSError):
        socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), timeout=ANSWER_SECONDS).close()
        return True
    return False


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The numbers of workers that a run may have, and on what.

    counts: ascending. threads: CPU threads a worker, 0 = those there are, shared. gpu: one GPU a worker.
    """

    counts: Sequence[int]
    threads: int
    gpu: bool

    @classmethod
    def of(cls, run: TrainingRun, placement: Placement) -> Sizes:
        """Those of `run`, which was placed so at first: by a range those that can share its batch, else the one."""
        counts = [placement.workers]
        if run.scaling.elastic:
            counts = sharing_counts(run.schedule.batch_size, run.scaling.fewest, run.scaling.most)
        return cls(counts, run.scaling.threads, placement.gpu)

    def fitting(self, nodes: Sequence[Resources], already: int = 0) -> int:
        """The greatest of the numbers for which there is room beside `already` workers in place; 0 if there is for none."""
        most = already + room(nodes, self.threads or 1, self.gpu)
        return max((count for count in self.counts if count <= most), default=0)

    def below(self, workers: int) -> Sizes:
        """The numbers less than `workers`, if there are any; else the same ones."""
        fewer = [count for count in self.counts if count < workers]
        return dataclasses.replace(self, counts=fewer or self.counts)

    def place(self, nodes: Sequence[Resources], cluster: str | None) -> Placement | None:
        """The greatest group that `nodes` hold, with as many threads as they have."""
        workers = self.fitting(nodes)
        if not workers:
            return None
        return Placement(workers, self.gpu, self.threads or widest(nodes, workers, self.gpu), cluster)


def wait_for_room(
    sizes: Sizes, look: Callable[[], Sequence[Resources]], seconds: float, wanted: int = 0, interval: float = 0.5
) -> Sequence[Resources] | None:
    """Nodes with room for at least the fewest workers, or None if there are none within `seconds`.

    wanted: a number of workers that is expected to fit in a moment, and so is worth `SETTLING_SECONDS`.
    """
    started = time.monotonic()
    while True:
        nodes = look()
        waited = time.monotonic() - started
        fits = sizes.fitting(nodes)
        if fits and (fits >= wanted or waited >= SETTLING_SECONDS):
            return nodes
        if not fits and waited >= max(seconds, SETTLING_SECONDS):
            return None
        time.sleep(interval)
