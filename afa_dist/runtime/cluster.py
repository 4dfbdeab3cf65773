"""Starting or joining Ray, closed to strangers.

Ray's services listen on all interfaces whatever the node address, so what protects them is the token: a cluster that
we start always has one, in a file that only we can read. Ray takes its authentication settings from the environment
when it is imported, and keeps them; hence this module sets them first and imports Ray inside its functions.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import secrets
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from afa_dist.config import ScalingConfig
from afa_dist.errors import UserError
from afa_dist.runtime.demand import wait_for_machines
from afa_dist.runtime.placement import (
    OWN_CLUSTER,
    Placement,
    addressed_cluster,
    cores,
    memory_given,
    place_here,
    place_on_nodes,
    room_for,
)

_SETTINGS = {
    # A report waits until it is polled; the default of 2 s adds seconds to every short run.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # every print would appear twice
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Two pages of metrics answer anybody, without the token, and have no switch; a port that there is not is one.
    "AUTOSCALER_METRIC_PORT": "-1",
    "DASHBOARD_METRIC_PORT": "-1",
}

EXPECTED_NODES = "AFA_DIST_RAY_NODES"
"""Environment variable with the number of nodes that a cluster which is being started is going to have."""

_JOIN_SECONDS = 300.0

_CODE = Path(__file__).resolve().parents[2]

_LONGEST_TMPDIR = 25
"""Ray's sockets lie deep below its folder, and the path of a socket may have 107 characters."""


@contextlib.contextmanager
def session(scaling: ScalingConfig, waits: bool = False, gpu_share: float = 1.0) -> Iterator[Placement]:
    """Decide where `scaling` computes, and be connected to Ray for as long if it takes that.

    Sessions may be nested: the inner one uses the outer one's cluster, so several stages share one. waits, gpu_share:
    see `place_on_nodes`.

    Raises:
        UserError: the cluster does not answer, or can never hold what is asked for.
    """
    here = place_here(scaling)
    if here is not None:
        yield here
        return
    before_ray()
    cluster = addressed_cluster()
    with contextlib.ExitStack() as stack:
        if not is_connected():
            stack.enter_context(_joined(cluster) if cluster else _own(max(1, scaling.fewest) * max(1, scaling.threads)))
        if scaling.autoscale and cluster:
            wait_for_machines(scaling, lambda: room_for(scaling, alive_nodes(), gpu_share), gpu_share)
        yield place_on_nodes(scaling, alive_nodes(), cluster, waits, gpu_share)


def alive_nodes() -> list[dict[str, float]]:
    """Resources (CPU, GPU, ...) of each node of the cluster that this process is connected to."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def before_ray() -> None:
    """Settings that Ray reads when it is imported; call this before, wherever that may be the first time."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    if addressed_cluster():
        # Without a token in sight the cluster may be an open one; with one, token mode must be said, or Ray reports
        # a failed connection after 20 s instead of the reason.
        if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
            os.environ.setdefault("RAY_AUTH_MODE", "token")
    elif not is_connected():
        folder = private_folder()
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(folder / "token")
        os.environ["RAY_TMPDIR"] = str(folder / "ray")
        os.environ["RAY_enable_metrics_collection"] = "0"  # noqa: SIM112 - its port would answer anybody, without the token


def preview(scaling: ScalingConfig) -> str:
    """Words for where `scaling` would compute, without connecting to anything."""
    here = place_here(scaling)
    if here is not None:
        return here.describe()
    workers = f"{scaling.workers} workers" if scaling.most > 0 else "as many workers as there are GPUs"
    cluster = addressed_cluster()
    return f"{workers} of {f'the cluster at {cluster}' if cluster else 'Ray on this machine'}"


def is_connected() -> bool:
    """Whether this process is part of a Ray cluster."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


@contextlib.contextmanager
def _joined(address: str) -> Iterator[None]:
    _probe(address)
    import ray

    try:
        # Workers look for modules in the folder that their driver is in now: they must find the driver's own code.
        with contextlib.chdir(_CODE):
            ray.init(address=address, logging_level="ERROR", log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise UserError.one("RAY_ADDRESS", _no_answer(address, str(error).strip().splitlines()[0])) from error
    try:
        _wait_for_nodes(int(os.environ.get(EXPECTED_NODES, "0")))
        yield
    finally:
        ray.shutdown()


def _wait_for_nodes(count: int) -> None:
    """Wait until a cluster that is being started is complete.

    Raises:
        UserError: it does not become so.
    """
    deadline = time.monotonic() + _JOIN_SECONDS
    while (found := len(alive_nodes())) < count:
        if time.monotonic() > deadline:
            what = f"{found} of {count} nodes came within {_JOIN_SECONDS:g} s; see the logs of the others"
            raise UserError.one(EXPECTED_NODES, what)
        time.sleep(0.2)


def _probe(address: str) -> None:
    """Fail at once when nothing listens; Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if not port.isdigit() or "/" in host:
        return  # "auto", or a form that Ray itself must judge
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise UserError.one("RAY_ADDRESS", _no_answer(address, error.strerror or str(error))) from error


def _no_answer(address: str, reason: str) -> str:
    return f"no Ray cluster answers at {address} ({reason}); start it with `ray start --head`, or unset RAY_ADDRESS"


@contextlib.contextmanager
def _own(cpus: int) -> Iterator[None]:
    import ray

    given = memory_given()
    context = ray.init(
        address="local",
        # By itself Ray would take a part of the machine's.
        object_store_memory=max(100 * 2**20, given * 3 // 10) if given else None,
        num_cpus=max(cores(), cpus),
        include_dashboard=False,
        logging_level="ERROR",
        log_to_driver=False,
        _temp_dir=str(private_folder() / "ray"),
    )
    # Children must find this cluster and no other that the machine may run.
    os.environ["RAY_ADDRESS"] = os.environ[OWN_CLUSTER] = context.address_info["gcs_address"]
    try:
        yield
    finally:
        ray.shutdown()
        del os.environ["RAY_ADDRESS"], os.environ[OWN_CLUSTER]


@functools.cache
def private_folder() -> Path:
    """A folder of this process that nobody else can enter: `token`, fresh, and `ray/` for Ray; removed at exit.

    Ray opens its own folder to everybody, so that one lies inside a closed one.
    """
    base = tempfile.gettempdir()
    folder = Path(tempfile.mkdtemp(prefix="afa-", dir=base if len(base) <= _LONGEST_TMPDIR else "/tmp"))  # noqa: S108
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "ray").mkdir()
    descriptor = os.open(folder / "token", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))
    return folder
