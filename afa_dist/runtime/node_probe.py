"""What one node of a cluster tells of itself; runs there, as a Ray actor."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import platform
import shutil
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import ray
import torch

from afa_dist.address import is_address
from afa_dist.training.mirror import Mirror

_CODE = Path(__file__).resolve().parents[1]


@dataclasses.dataclass
class NodeFacts:
    """Of one node. versions: of all that must be equal everywhere. free_gb: by place. listening: address, port and process
    of Ray's own open ports. write_mb_s: into runs_dir, flushed to the disk.
    """

    node: str
    host: str
    versions: dict[str, str]
    free_gb: dict[str, float]
    listening: list[tuple[str, int, str]]
    write_mb_s: float = 0.0
    storage_fault: str = ""


class Probe:
    """On one node. Methods are called from the driver, those of a group on all nodes at once."""

    def facts(self, runs_dir: str) -> NodeFacts:
        free = {tempfile.gettempdir(): shutil.disk_usage(tempfile.gettempdir()).free / 1e9}
        return NodeFacts(
            node=ray.get_runtime_context().get_node_id(),
            host=socket.gethostname(),
            versions={
                "python": platform.python_version(),
                "torch": torch.__version__,
                "ray": ray.__version__,
                "afa-dist": code_hash(),
            },
            free_gb=free if is_address(runs_dir) else {**free, runs_dir: _free_gb(Path(runs_dir))},
            listening=listening(),
        )

    def clock(self) -> float:
        return time.time()

    def write(self, place: str, name: str, megabytes: int) -> tuple[float, str]:
        """Leave a file of this node in `place`; returns MB/s, or why it could not be done."""
        content = name.encode().ljust(64, b".") * (megabytes * 2**20 // 64)
        began = time.perf_counter()
        try:
            if is_address(place):
                Mirror(place).write_text(name, content.decode())
            else:
                Path(place).mkdir(parents=True, exist_ok=True)
                with (Path(place) / name).open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
        except Exception as error:
            return 0.0, f"{type(error).__name__}: {error}"
        return megabytes / (time.perf_counter() - began), ""

    def unseen(self, place: str, names: list[str], megabytes: int) -> list[str]:
        """Which of these files of other nodes this one does not see as they were written."""
        size = megabytes * 2**20
        lacking = []
        for name in names:
            try:
                content = Mirror(place).read_text(name).encode() if is_address(place) else (Path(place) / name).read_bytes()
                whole = len(content) == size and content.startswith(name.encode())
            except OSError:
                whole = False
            if not whole:
                lacking.append(name)
        return lacking

    def address(self) -> tuple[str, int]:
        """Where a group of these could meet: this node, and a port that is free now."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), probe.getsockname()[1]

    def collectives(self, rank: int, world: int, meeting: tuple[str, int], megabytes: int) -> dict[str, float]:
        """All-reduce and all-gather of `megabytes` with the other nodes: MB/s on the busiest link, or raises."""
        from datetime import timedelta

        from torch import distributed

        backend = "nccl" if torch.cuda.is_available() else "gloo"
        device = "cuda" if backend == "nccl" else "cpu"
        method = f"tcp://{meeting[0]}:{meeting[1]}"
        limit = timedelta(seconds=30)
        distributed.init_process_group(backend, init_method=method, rank=rank, world_size=world, timeout=limit)
        try:
            values = torch.full((megabytes * 2**18,), float(rank + 1), device=device)
            total = world * (world + 1) / 2
            reduced = _timed(lambda: distributed.all_reduce(values), device)
            if not torch.all(values == total):
                raise RuntimeError("all_reduce gave a wrong sum")
            own = torch.full((megabytes * 2**18 // world,), float(rank), device=device)
            parts = [torch.empty_like(own) for _ in range(world)]
            gathered = _timed(lambda: distributed.all_gather(parts, own), device)
            if not all(torch.all(part == number) for number, part in enumerate(parts)):
                raise RuntimeError("all_gather gave wrong parts")
        finally:
            distributed.destroy_process_group()
        share = (world - 1) / world
        return {"all_reduce": 2 * share * megabytes / reduced, "all_gather": share * megabytes / gathered}


def _timed(work: Any, device: str) -> float:
    began = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _free_gb(path: Path) -> float:
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    return shutil.disk_usage(existing).free / 1e9


def code_hash() -> str:
    """Of the package's own sources: equal where the same code is."""
    digest = hashlib.sha256()
    for path in sorted(_CODE.rglob("*.py")):
        digest.update(str(path.relative_to(_CODE)).encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def listening() -> list[tuple[str, int, str]]:
    """Ports on which this cluster's processes listen here; others of this machine are not ours to judge."""
    session = ray._private.worker.global_worker.node.session_name
    ours: dict[int, psutil.Process] = {}
    for process in psutil.process_iter(["cmdline"]):
        if session in " ".join(process.info["cmdline"] or []):
            with contextlib.suppress(psutil.Error):
                ours |= {one.pid: one for one in [process, *process.children(recursive=True)]}
    found = set()
    for process in ours.values():
        with contextlib.suppress(psutil.Error):
            role = _role(process.name(), " ".join(process.cmdline()))
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN:
                    found.add((connection.laddr.ip, connection.laddr.port, role))
    return sorted(found, key=lambda one: one[1])


def _role(name: str, words: str) -> str:
    """What a process of Ray is, short."""
    for part in ("dashboard/dashboard.py", "dashboard/agent.py", "runtime_env/agent", "client.server", "monitor.py"):
        if part in words:
            return part.rpartition("/")[2].removesuffix(".py") if part != "dashboard/agent.py" else "dashboard agent"
    return name.partition(" ")[0] or sys.executable
