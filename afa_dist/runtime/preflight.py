"""A look at a cluster before it is trusted with a run: what its nodes say of themselves, what they see of each other."""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from afa_dist.address import below, is_address, runs_root
from afa_dist.config.preflight import PreflightRun
from afa_dist.errors import Problem
from afa_dist.runtime.node_probe import NodeFacts, Probe

_LOOPBACK = ("127.0.0.1", "::1")


@dataclasses.dataclass
class Found:
    """What was found of a cluster.

    skews: seconds that each node's clock is ahead of the driver's. bandwidth: MB/s by collective.
    """

    nodes: list[NodeFacts]
    resources: dict[str, dict[str, float]]
    skews: dict[str, float]
    bandwidth: dict[str, float]
    token: bool
    problems: list[Problem]


def look(run: PreflightRun, gcs: str) -> Found:
    """Look at the cluster that this process is connected to, whose control service is at `gcs`."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    actors = {node["NodeID"]: _probe_on(node["NodeID"]) for node in alive}
    place = run.runs_dir if is_address(run.runs_dir) else str(runs_root(run.runs_dir).absolute())
    found = Found([], {node["NodeID"]: node["Resources"] for node in alive}, {}, {}, refuses_strangers(gcs), [])
    if run.nodes and len(alive) < run.nodes:
        found.problems.append(Problem("nodes", f"there are {len(alive)} of {run.nodes}"))
    if not found.token:
        what = f"Ray's control service at {gcs} answers without a token: whoever reaches it can run code on all nodes"
        found.problems.append(Problem("RAY_AUTH_MODE", f"{what}; start the cluster with RAY_AUTH_MODE=token"))
    facts = _gathered(found, run, [(key, actor.facts.remote(place)) for key, actor in actors.items()], "did not answer")
    found.nodes = list(facts.values())
    actors = {key: actor for key, actor in actors.items() if key in facts}
    found.skews = {key: _skew(actor) for key, actor in actors.items()}
    _storage(found, run, place, actors)
    if len(actors) > 1:
        _collectives(found, run, list(actors.items()))
    found.problems.extend(_judged(found, run, place))
    return found


def refuses_strangers(gcs: str) -> bool:
    """Whether the control service refuses a call that has no token."""
    with grpc.insecure_channel(gcs) as channel:
        try:
            channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetAllNodeInfo")(b"", timeout=5)
        except grpc.RpcError as error:
            return bool(error.code() == grpc.StatusCode.UNAUTHENTICATED)
    return False


def _probe_on(node: str) -> Any:
    """A probe on one node, which needs no free CPU there."""
    strategy = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(Probe).options(num_cpus=0, scheduling_strategy=strategy).remote()


def _gathered(found: Found, run: PreflightRun, calls: Sequence[tuple[str, Any]], what: str) -> dict[str, Any]:
    """The answers by node; nodes that give none are a problem each."""
    answers: dict[str, Any] = {}
    deadline = time.monotonic() + run.seconds
    for node, call in calls:
        try:
            answers[node] = ray.get(call, timeout=max(0.1, deadline - time.monotonic()))
        except ray.exceptions.GetTimeoutError:
            found.problems.append(Problem(node[:8], f"{what} within {run.seconds:g} s"))
        except ray.exceptions.RayError as error:
            last = str(getattr(error, "cause", None) or error).strip().splitlines()[-1]
            found.problems.append(Problem(node[:8], f"{what}: {last}"))
    return answers


def _skew(actor: Any, tries: int = 5) -> float:
    """Seconds that a node's clock is ahead of this one's, by the quickest of several questions."""
    best = (float("inf"), 0.0)
    for _ in range(tries):
        began = time.time()
        there = ray.get(actor.clock.remote())
        took = time.time() - began
        best = min(best, (took, there - (began + took / 2)))
    return best[1]


def _storage(found: Found, run: PreflightRun, place: str, actors: dict[str, Any]) -> None:
    """Whether each node can write into runs_dir, how fast, and whether all see what each has written."""
    folder = below(place, f".preflight-{secrets.token_hex(4)}")
    try:
        written = _gathered(
            found,
            run,
            [(key, actor.write.remote(folder, key, run.megabytes)) for key, actor in actors.items()],
            "hung in writing",
        )
        for facts in found.nodes:
            facts.write_mb_s, facts.storage_fault = written.get(facts.node, (0.0, ""))
        names = [key for key, (speed, _) in written.items() if speed]
        calls = [(key, actor.unseen.remote(folder, names, run.megabytes)) for key, actor in actors.items()]
        for key, lacking in _gathered(found, run, calls, "hung in reading").items():
            if lacking:
                hosts = ", ".join(facts.host for facts in found.nodes if facts.node in lacking)
                what = f"{_host(found, key)} does not see what {hosts} wrote into {place}: it is not the same folder there"
                found.problems.append(Problem("runs_dir", what))
    finally:
        for call in [actor.clock.remote() for actor in actors.values()]:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.get(call, timeout=5)
        _remove(folder)


def _remove(folder: str) -> None:
    from afa_dist.training.mirror import UNANSWERED, Mirror

    if is_address(folder):
        with contextlib.suppress(*UNANSWERED):
            Mirror(folder).remove()
    else:
        shutil.rmtree(Path(folder), ignore_errors=True)


def _collectives(found: Found, run: PreflightRun, actors: Sequence[tuple[str, Any]]) -> None:
    """What torch's collectives carry between the nodes, by the slowest of them."""
    meeting = ray.get(actors[0][1].address.remote())
    calls = [
        (key, actor.collectives.remote(rank, len(actors), meeting, run.megabytes))
        for rank, (key, actor) in enumerate(actors)
    ]
    answers = list(_gathered(found, run, calls, "could not take part in collectives").values())
    if answers:
        found.bandwidth = {name: min(answer[name] for answer in answers) for name in answers[0]}


def _judged(found: Found, run: PreflightRun, place: str) -> Iterator[Problem]:
    for name in ("python", "torch", "ray", "afa-dist"):
        versions: dict[str, list[str]] = {}
        for facts in found.nodes:
            versions.setdefault(facts.versions[name], []).append(facts.host)
        if len(versions) > 1:
            listed = "; ".join(f"{version} on {', '.join(hosts)}" for version, hosts in versions.items())
            yield Problem(name, f"is not the same everywhere: {listed}")
    for facts in found.nodes:
        if facts.storage_fault:
            yield Problem("runs_dir", f"{facts.host} cannot write to {place}: {facts.storage_fault}")
        for folder, free in facts.free_gb.items():
            if free < run.free_gb:
                yield Problem("free_gb", f"{facts.host} has {free:.1f} GB free in {folder}, less than {run.free_gb:g}")
        for address, port, role in facts.listening:
            if role == "dashboard" and address not in _LOOPBACK:
                what = f"{facts.host} shows it to everybody at {address}:{port}; start Ray with --dashboard-host=127.0.0.1"
                yield Problem("dashboard", f"{what}, and with DASHBOARD_METRIC_PORT=-1 in its environment")
    if found.skews and (apart := max(found.skews.values()) - min(found.skews.values())) > run.skew_seconds:
        listed = ", ".join(f"{_host(found, key)} {skew:+.2f} s" for key, skew in found.skews.items())
        yield Problem("clocks", f"are {apart:.2f} s apart, more than {run.skew_seconds:g}: {listed}")


def _host(found: Found, node: str) -> str:
    return next((facts.host for facts in found.nodes if facts.node == node), node[:8])
