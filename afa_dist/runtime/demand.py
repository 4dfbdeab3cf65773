"""Asking a cluster that starts machines by itself (KubeRay, `ray up`) for as many as a run can use.

Ray starts machines for what waits to be placed. A run with a range of workers takes what there is, so that nothing would
ever wait: it says what it could use instead, through Ray Train's own coordinator, which adds up what all runs of a cluster
ask for.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from afa_dist.config import ScalingConfig
from afa_dist.errors import UserError
from afa_dist.runtime.placement import in_parts, parts_of, room

EXPIRE_SECONDS = 120.0
"""So long after a run has died its machines are still asked for."""

RENEW_SECONDS = 30.0
LOOK_SECONDS = 1.0

_current: list[Demand] = []
"""That of the outermost session of this process, if there is one."""


class Demand:
    """What this process asks for: up to `most` workers, each of which takes `bundle` (CPU, GPU)."""

    def __init__(self, bundle: Mapping[str, float], most: int) -> None:
        self.bundle = dict(bundle)
        self.most = most
        self._beside = 0
        self._name = f"afa-dist-{os.uname().nodename}-{os.getpid()}-{time.time_ns()}"
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._send()
        threading.Thread(target=self._renew, daemon=True).start()

    def beside(self, workers: int) -> None:
        """Ask for what is missing beside `workers` for which Ray Train asks itself."""
        self._beside = workers
        self._send()

    def end(self) -> None:
        """Ask for nothing any more."""
        self._ended.set()
        with self._lock:
            _coordinator().cancel_request.remote(self._name)

    def _renew(self) -> None:
        while not self._ended.wait(RENEW_SECONDS):
            with contextlib.suppress(Exception):  # Ray is gone, and with it the demand
                self._send()

    def _send(self) -> None:
        with self._lock:
            if not self._ended.is_set():
                bundles = [self.bundle] * max(0, self.most - self._beside)
                _coordinator().request_resources.remote(self._name, bundles, EXPIRE_SECONDS)


def _coordinator() -> Any:
    from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import get_or_create_autoscaling_coordinator

    return get_or_create_autoscaling_coordinator()


@contextlib.contextmanager
def asked(
    scaling: ScalingConfig, nodes: Callable[[], Sequence[Mapping[str, float]]], gpu_share: float = 1.0
) -> Iterator[None]:
    """Ask for the most workers that `scaling` allows, for as long; begins when there is room for the fewest.

    nodes: resources of each alive node. gpu_share: see `place_on_nodes`. Inside of another one nothing more is asked for.

    Raises:
        UserError: there was no room within scaling.wait_seconds.
    """
    gpu, threads = scaling.device == "gpu", scaling.threads or 1
    outermost = not _current
    if outermost:
        _current.append(Demand({"CPU": threads, **({"GPU": gpu_share} if gpu else {})}, scaling.most))
    try:
        _wait(scaling, lambda: room(in_parts(nodes(), parts_of(gpu_share)), threads, gpu))
        yield
    finally:
        if outermost:
            _current.pop().end()


def beside(workers: int) -> None:
    """A group of so many workers is about to compute, or none any more: ask for the others."""
    for demand in _current:
        demand.beside(workers)


def _wait(scaling: ScalingConfig, fitting: Callable[[], int]) -> None:
    started = time.monotonic()
    while (found := fitting()) < scaling.fewest:
        waited = time.monotonic() - started
        if waited >= scaling.wait_seconds:
            what = (
                f"{scaling.wait_seconds:g} s after machines were asked for there is room for {found} of {scaling.fewest} "
            )
            raise UserError.one("scaling.wait_seconds", what + "workers; `ray status` says what the cluster tries to start")
        if waited < LOOK_SECONDS:
            what = f"room for {found} of {scaling.fewest} workers; machines for {scaling.most} are asked for"
            warnings.warn(f"{what}, waiting up to {scaling.wait_seconds:g} s", stacklevel=4)
        time.sleep(LOOK_SECONDS)
