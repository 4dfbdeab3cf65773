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
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from afa_dist.errors import UserError
from afa_dist.runtime.placement import OWN_CLUSTER, Placement

_SETTINGS = {
    # A report waits until it is polled; the default of 2 s adds seconds to every short run.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # every print would appear twice
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@contextlib.contextmanager
def connected(placement: Placement) -> Iterator[None]:
    """Be connected to the addressed cluster, or to one of our own that ends with this block.

    Does nothing without workers, or when this process is connected already (several stages share one cluster).

    Raises:
        UserError: the addressed cluster does not answer.
    """
    if placement.workers == 0 or _is_connected():
        yield
        return
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    with _joined(placement.cluster) if placement.cluster else _own(placement):
        yield


def _is_connected() -> bool:
    import sys

    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


@contextlib.contextmanager
def _joined(address: str) -> Iterator[None]:
    # Without a token in sight the cluster may be an open one; with one, token mode must be said, or Ray reports
    # a failed connection after 20 s instead of the reason.
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    import ray

    try:
        ray.init(address=address, logging_level="ERROR", log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        what = f"no Ray cluster answers at {address} ({str(error).splitlines()[0]}); start it, or unset RAY_ADDRESS"
        raise UserError.one("RAY_ADDRESS", what) from error
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _own(placement: Placement) -> Iterator[None]:
    folder = private_folder()
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(folder / "token")
    os.environ["RAY_TMPDIR"] = str(folder)
    import ray

    context = ray.init(
        address="local",
        num_cpus=max(os.cpu_count() or 1, placement.workers * placement.threads),
        include_dashboard=False,
        logging_level="ERROR",
        log_to_driver=False,
        _temp_dir=str(folder),
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
    """A folder of this process for Ray's sockets and logs, with a fresh token in it; removed at exit.

    Its path is short, since that of a socket may have 107 characters at most. The token file has mode 0600 (Ray's own
    would be readable by all).
    """
    folder = Path(tempfile.mkdtemp(prefix="afa-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    descriptor = os.open(folder / "token", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))
    return folder


def has_gpus(count: int) -> bool:
    """Whether the connected cluster has `count` GPUs."""
    import ray

    return bool(ray.cluster_resources().get("GPU", 0) >= count)


def check_resources(workers: int, threads: int, gpu: bool) -> None:
    """Refuse what the connected cluster can never give; Ray itself would wait for it forever."""
    import ray

    have: dict[str, Any] = ray.cluster_resources()
    problems = []
    if gpu and have.get("GPU", 0) < workers:
        problems.append(f"{workers} workers need {workers} GPUs, the cluster has {have.get('GPU', 0):g}")
    if have.get("CPU", 0) < workers * threads:
        need = f"{workers} workers with {threads} threads need {workers * threads} CPUs"
        problems.append(f"{need}, the cluster has {have.get('CPU', 0):g}; lower scaling.threads")
    if problems:
        raise UserError.one("scaling.workers", "; ".join(problems))
