"""Ray on the nodes of one Slurm job: a head on the first, the others join it by what it writes into the job's folder.

Each cluster has a token of its own, its own ports and its own temporary folder, so that several jobs on one node do not
meet. All processes carry a mark in their environment, by which they, and no others, are ended. Needs the standard library.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.slurm.closed import private_folder
from cluster.slurm.ports import free_block, options_of

MARK = "AFA_DIST_SLURM_RAY"
"""Environment variable of all processes of a node's Ray."""

JOIN_SECONDS = 300.0
"""How long the nodes of a job wait for each other: they may need minutes to start, and shared folders to show a file."""

UP_SECONDS = 120.0
TRIES = 5

_PROTECTED = {
    "RAY_AUTH_MODE": "token",
    "RAY_enable_metrics_collection": "0",
    # These two answer anybody, and have no switch; a port that cannot be is one.
    "DASHBOARD_METRIC_PORT": "-1",
    "AUTOSCALER_METRIC_PORT": "-1",
    "RAY_USAGE_STATS_ENABLED": "0",
}


@dataclasses.dataclass(frozen=True)
class Share:
    """What a node gives to the job."""

    cpus: int
    gpus: int
    memory_mb: int | None

    @classmethod
    def of_allocation(cls, environment: Mapping[str, str]) -> Share:
        """As Slurm says, not as the machine has it."""
        cpus = int(environment.get("SLURM_CPUS_PER_TASK") or environment.get("SLURM_CPUS_ON_NODE") or 1)
        visible = [name for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        gpus = int(environment.get("SLURM_GPUS_ON_NODE") or len(visible))
        memory = environment.get("SLURM_MEM_PER_NODE")
        per_cpu = environment.get("SLURM_MEM_PER_CPU")
        total = int(memory) if memory else int(per_cpu) * cpus if per_cpu else 0
        return cls(cpus, gpus, total or None)

    def options(self) -> list[str]:
        """Of `ray start`. A third of the memory is for shared objects, as Ray itself divides it."""
        options = [f"--num-cpus={self.cpus}", f"--num-gpus={self.gpus}"]
        if self.memory_mb:
            store = max(100, self.memory_mb * 3 // 10) * 2**20
            options += [f"--object-store-memory={store}", f"--memory={max(1, self.memory_mb * 2**20 - store)}"]
        return options


class RayNode:
    """One node's Ray, for the time of a `with`; all its processes are ended after it."""

    def __init__(self, command: Sequence[str], folder: Path, identity: str, share: Share, tmp: str) -> None:
        """command: that runs `ray`. folder: of this start of the job, seen by all its nodes. tmp: of this node."""
        self.command = list(command)
        self.folder = folder
        self.identity = identity
        self.share = share
        self.tmp = tmp
        self.mark = secrets.token_hex(8)
        self.process: subprocess.Popen[bytes] | None = None
        self.place: Path | None = None
        self.log = folder / f"ray-{identity.rpartition('.')[2]}.log"

    def __enter__(self) -> RayNode:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        if self.place is not None:
            shutil.rmtree(self.place, ignore_errors=True)

    @property
    def environment(self) -> dict[str, str]:
        """Of Ray's processes, and of whoever is to reach them."""
        return {**_PROTECTED, "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"), MARK: self.mark}

    def start_head(self, address: str, seconds: float = UP_SECONDS) -> str:
        """Start the head on this node, known to the others as `address`; returns where Ray's control service listens.

        Raises:
            RuntimeError: it did not start; with the last lines of its log.
        """
        if not (self.folder / "token").exists():
            write_secret(self.folder / "token", secrets.token_hex(32))
        name = f"afa-{secrets.token_hex(4)}"
        place = ray_folder(Path(self.tmp) / name)
        head = ["--head", f"--node-ip-address={address}", f"--temp-dir={place}", "--dashboard-host=127.0.0.1"]
        head += ["--no-monitor"]
        for attempt in range(TRIES):
            base = free_block(self.identity, self.share.cpus, attempt)
            self._start([*head, *options_of(base, self.share.cpus, head=True)], place)
            if self._comes(self._says_started, seconds):
                write_json(
                    self.folder / "address.json", {"address": f"{address}:{base}", "dashboard": base + 1, "tmp": name}
                )
                return f"{address}:{base}"
            self.stop()
        raise RuntimeError(f"Ray's head did not start in {TRIES} tries; the end of {self.log}:\n{_tail(self.log)}")

    def join(self, address: Callable[[str], str], over: Callable[[], bool], seconds: float = JOIN_SECONDS) -> bool:
        """Join the head once it says where it is; False if the job was `over` before.

        address: gives this node's own address, from the head's.

        Raises:
            RuntimeError: there was no head in time, or this node could not join it.
        """
        head, pause, deadline = None, 0.1, time.monotonic() + seconds
        while head is None:
            head = read_json(self.folder / "address.json")
            if over():
                return False
            if head is None and time.monotonic() > deadline:
                raise RuntimeError(f"the first node said nothing in {self.folder} within {seconds:g} s")
            time.sleep(0 if head else pause)
            pause = min(2.0, pause * 1.5)
        place = ray_folder(Path(self.tmp) / head["tmp"])
        own = address(head["address"].rpartition(":")[0])
        options = [f"--address={head['address']}", f"--node-ip-address={own}"]
        for attempt in range(TRIES):
            base = free_block(self.identity, self.share.cpus, attempt)
            self._start([*options, *options_of(base, self.share.cpus, head=False)], place)
            if self._comes(self._says_started, UP_SECONDS) or over():
                return True
            self.stop()
        raise RuntimeError(f"this node could not join Ray in {TRIES} tries; the end of {self.log}:\n{_tail(self.log)}")

    def ended(self) -> bool:
        """Whether it has stopped by itself, because the head is gone or it broke."""
        return self.process is not None and self.process.poll() is not None

    def stop(self) -> None:
        """End all processes of this node's Ray, at once: nothing of a run is kept in them."""
        for _ in range(50):
            found = marked(self.mark)
            if not found:
                break
            for pid in found:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            if self.process:
                self.process.poll()
            time.sleep(0.1)

    def _start(self, options: Sequence[str], place: Path) -> None:
        command = [*self.command, "start", "--block", "--disable-usage-stats", *options, *self.share.options()]
        self.place = place.parent
        environment = {**os.environ, **self.environment, "RAY_TMPDIR": str(place)}
        environment.pop("RAY_ADDRESS", None)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=environment,
                preexec_fn=_deaf,
                start_new_session=True,
            )

    def _says_started(self) -> bool:
        return b"Ray runtime started" in self.log.read_bytes()

    def _comes(self, condition: Callable[[], bool], seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not condition():
            if self.ended() or time.monotonic() > deadline:
                return False
            time.sleep(0.2)
        return True


def ray_folder(path: Path) -> Path:
    """A folder for Ray, which opens it to everybody, inside one that is closed."""
    folder = private_folder(path) / "r"
    folder.mkdir(exist_ok=True)
    return folder


def _deaf() -> None:
    """Slurm warns all processes of a job. Ray must live on until the run has saved, so it does not hear that."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR2, signal.SIGINT, signal.SIGHUP})


def marked(mark: str) -> list[int]:
    """Processes of this user with `mark` in their environment."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found


def own_address(other: str) -> str:
    """This machine's address on the way to another one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((other, 9))
        return str(probe.getsockname()[0])


def write_secret(path: Path, text: str) -> None:
    """A file that only its owner can read, from its first moment."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def write_json(path: Path, value: Any) -> None:
    """Whole or not at all: others look for it."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    aside.write_text(json.dumps(value))
    aside.replace(path)


def read_json(path: Path) -> Any:
    """What lies there, or None."""
    # A look into the folder itself makes network file systems forget that the file was not there.
    with contextlib.suppress(OSError, ValueError):
        list(path.parent.iterdir())
        return json.loads(path.read_text())
    return None


def _tail(path: Path, lines: int = 15) -> str:
    with contextlib.suppress(OSError):
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    return ""
