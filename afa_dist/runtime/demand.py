"""Asking a cluster that starts machines by itself (KubeRay, `ray up`) for as many as a run can use.

Ray starts machines for what waits to be placed. A run with a range of workers takes what there is, so that nothing would
ever wait: it lets empty actors wait in place of the workers that it has not, one each, and takes their places when they
have got some. (Ray's request_resources would be shorter, but is one for the whole cluster: the second version of Ray's
autoscaler starts nothing at all for it, and for no other run, if not all of it is to be had: _enforce_resource_constraints
in Ray's autoscaler/v2/scheduler.py.)
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from afa_dist.config import ScalingConfig
from afa_dist.errors import UserError

LOOK_SECONDS = 0.5
TELL_SECONDS = 30.0

MORE_SECONDS = 5.0
"""Machines come one after another: so long further ones are waited for when there is room for the fewest workers."""


class Demand:
    """Places for up to `most` workers, each of which takes `bundle` (CPU, GPU), asked for and held until they are released.
    With most = 0 nothing is ever asked for.
    """

    def __init__(self, bundle: Mapping[str, float], most: int) -> None:
        self.bundle = dict(bundle)
        self.most = most
        self._waiting: dict[Any, Any] = {}
        """Actors, by what tells that they are placed."""
        self._placed: list[Any] = []

    def ask(self, beside: int = 0) -> None:
        """Ask for as many as are missing beside `beside` workers in place."""
        import ray

        kind = ray.remote(num_cpus=self.bundle.get("CPU", 0), num_gpus=self.bundle.get("GPU", 0))(Place)
        for _ in range(self.most - beside - len(self._waiting) - len(self._placed)):
            actor = kind.remote()
            self._waiting[actor.here.remote()] = actor

    def held(self) -> int:
        """How many places there are by now."""
        import ray

        if self._waiting:
            known, _ = ray.wait(list(self._waiting), num_returns=len(self._waiting), timeout=0)
            for answer in known:
                actor = self._waiting.pop(answer)
                with contextlib.suppress(ray.exceptions.RayError):  # its machine came, and is gone already
                    ray.get(answer)
                    self._placed.append(actor)
        return len(self._placed)

    def as_nodes(self) -> Sequence[Mapping[str, float]]:
        """What is held, as resources of nodes that are free."""
        return [self.bundle] * self.held()

    def release(self) -> None:
        """Hold nothing and ask for nothing any more."""
        import ray

        for actor in [*self._waiting.values(), *self._placed]:
            with contextlib.suppress(Exception):  # Ray itself may be gone
                ray.kill(actor)
        self._waiting, self._placed = {}, []


class Place:
    """An actor that does nothing: Ray finds it a machine."""

    def here(self) -> None:
        """Answers as soon as there is one."""


def bundle_of(threads: int, gpu: bool, share: float = 1.0) -> dict[str, float]:
    """What one worker takes."""
    return {"CPU": threads or 1, **({"GPU": share} if gpu else {})}


def wait_for_machines(scaling: ScalingConfig, fitting: Callable[[], int], share: float = 1.0) -> None:
    """Ask for the most workers that `scaling` allows, until there are machines for the fewest, and a moment longer.

    fitting: how many workers the machines there are could hold, if they held nothing else. share: of a GPU, a worker.

    Raises:
        UserError: there were none within scaling.wait_seconds.
    """
    if fitting() >= scaling.fewest:
        return  # what more it could use it asks for when it has begun
    what = f"room for {fitting()} of {scaling.fewest} workers; machines for {scaling.most} are asked for"
    warnings.warn(f"{what}, waiting up to {scaling.wait_seconds:g} s", stacklevel=3)
    started, enough_since = time.monotonic(), 0.0
    tell_at = started + TELL_SECONDS
    demand = Demand(bundle_of(scaling.threads, scaling.device == "gpu", share), scaling.most)
    try:
        demand.ask()
        while (held := demand.held()) < scaling.most:
            now = time.monotonic()
            if held >= scaling.fewest:
                enough_since = enough_since or now
                if now - enough_since >= MORE_SECONDS:
                    return
            elif now - started >= scaling.wait_seconds:
                what = f"{scaling.wait_seconds:g} s after machines were asked for there is room for {held} of "
                what += f"{scaling.fewest} workers; `ray status` says what the cluster tries to start"
                raise UserError.one("scaling.wait_seconds", what)
            elif now >= tell_at:
                tell_at = now + TELL_SECONDS
                warnings.warn(f"room for {held} of {scaling.fewest} workers after {now - started:.0f} s", stacklevel=3)
            time.sleep(LOOK_SECONDS)
    finally:
        demand.release()
