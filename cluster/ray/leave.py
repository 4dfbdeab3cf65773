"""This machine is about to be taken away: tell Ray, so that runs save and go on elsewhere, and wait until they have left.

python -m cluster.ray.leave --seconds 90                  # now: what Kubernetes runs before it ends a pod
python -m cluster.ray.leave --seconds 90 --watch aws      # when the cloud says so: on spot machines
python -m cluster.ray.leave --seconds 90 --jobs           # on the head: warn all jobs
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import psutil

from cluster.ray.notice import NOTICES, wait_for_notice

LOOK_SECONDS = 0.5
SHELLS = ("sh", "bash", "dash")

ADDRESS = "127.0.0.1:6379"


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="cluster.ray.leave", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=90.0, help="how long there is until the machine ends (90)")
    parser.add_argument("--address", default=os.environ.get("RAY_ADDRESS") or ADDRESS, help="the cluster (RAY_ADDRESS)")
    parser.add_argument("--ip", default="", help="only the Ray node at this address of the machine")
    parser.add_argument("--watch", choices=sorted(NOTICES), help="first wait for the cloud's notice")
    parser.add_argument("--metadata", default="", help="where the cloud's notices are asked for, if not at the usual place")
    parser.add_argument("--jobs", action="store_true", help="warn all jobs instead: the head itself leaves")
    given = parser.parse_args(words)
    if given.watch:
        wait_for_notice(given.watch, given.metadata)
    deadline = time.monotonic() + given.seconds
    ips = {given.ip} if given.ip else own_addresses()
    return (warn_jobs if given.jobs else leave)(given.address, ips, deadline)


def own_addresses() -> set[str]:
    """The IP addresses of this machine."""
    return {entry.address for entries in psutil.net_if_addrs().values() for entry in entries}


def leave(address: str, ips: set[str], deadline: float) -> int:
    """Let Ray start nothing more on the nodes at `ips` and tell those who compute there; wait until `deadline`."""
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.core.generated import autoscaler_pb2

    # As the hidden command `ray drain-node` does it, which would need the node's number.
    client = GcsClient(address=address)
    left = max(1, int(deadline - time.monotonic()))
    until = (time.time_ns() // 10**6) + left * 1000
    nodes = {number.hex(): info for number, info in client.get_all_node_info().items()}
    mine = [number for number, info in nodes.items() if info.node_manager_address in ips and _alive(info)]
    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    for number in mine:
        taken, why = client.drain_node(number, reason, "the machine is taken away", until)
        print(f"Ray node {number[:12]}: {f'told, {left} s left' if taken else f'not told: {why}'}", flush=True)
    if not mine:
        print(f"no Ray node runs at {', '.join(sorted(ips))}", file=sys.stderr)
        return 1
    return _wait(lambda: not busy(address, ips), deadline, "all have left", "some still compute here")


def _alive(info: Any) -> bool:
    return bool(info.state == info.GcsNodeState.Value("ALIVE"))


def busy(address: str, ips: set[str]) -> list[str]:
    """What computes on the Ray nodes at `ips`; Ray calls what waits for work ray::IDLE, ray::IDLE_SpillWorker, ..."""
    names = [name for name, _ in workers(address, ips)]
    return [name for name in names if name.startswith("ray::") and not name.startswith("ray::IDLE")]


def workers(address: str, ips: set[str]) -> list[tuple[str, psutil.Process]]:
    """Processes of this machine's Ray nodes at `ips` which belong to the cluster at `address`, with their names."""
    port = f":{address.rpartition(':')[2]}"
    found = []
    for process in psutil.process_iter(["name", "cmdline"]):
        words = process.info["cmdline"] or []
        ours = any(word.startswith("--gcs-address=") and word.endswith(port) for word in words)
        if process.info["name"] != "raylet" or not ours or not any(f"--node_ip_address={ip}" in words for ip in ips):
            continue
        with contextlib.suppress(psutil.Error):
            for child in process.children():
                with contextlib.suppress(psutil.Error):
                    found.append(((child.cmdline() or [""])[0], child))
    return found


def warn_jobs(address: str, ips: set[str], deadline: float) -> int:
    """Warn all jobs that run on this machine; each saves and ends with exit code 75. One that is stopped by Ray itself was
    meant to end, and KubeRay would not go on with it.
    """
    supervisors = [process for name, process in workers(address, ips) if name.startswith("ray::JobSupervisor")]
    drivers = [process for supervisor in supervisors for process in supervisor.children(recursive=True)]
    for process in drivers:
        with contextlib.suppress(psutil.Error):
            if process.name() in SHELLS:
                continue  # waits for the job itself, and has its exit code
            print(f"warning process {process.pid}: {process.name()}", flush=True)
            process.terminate()
    return _wait(
        lambda: not psutil.wait_procs(drivers, timeout=0)[1], deadline, "all jobs have ended", "some jobs still run"
    )


def _wait(done: Callable[[], bool], deadline: float, well: str, late: str) -> int:
    while not (ended := done()) and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
    print(well if ended else late, flush=True)
    return 0 if ended else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
