"""Finds workers that hang or are gone, and says which: the others would wait for them, some of them forever.

Every worker has a thread that posts signs of life in the store of the process group. A worker that makes no progress for
too long looks at where all are: one that waits in a collective waits for somebody else.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch.distributed as dist

from afa_dist.distributed import World
from afa_dist.distributed.pulse import beats
from afa_dist.errors import LostWorker, Stopped, TrainingError

POSTS_A_TIMEOUT = 10
"""Least number of signs of life within the time after which a worker counts as hung."""

LONGEST_INTERVAL_SECONDS = 2.0

SILENT_AFTER = 3
"""A worker is silent that left out so many signs of life."""

_PACKAGE = Path(__file__).parents[1]
_WAITING = (
    str(_PACKAGE / "distributed" / "gather.py"),
    str(_PACKAGE / "distributed" / "world.py"),
    "torch/distributed/",
    "torch/autograd/",  # DDP waits for the others' gradients inside the backward pass
)
_LOST = ("connection closed", "connection reset", "connection refused", "broken pipe", "nccl")
_ELSEWHERE = "code that is not ours"

Die = Callable[[str], None]


@dataclasses.dataclass
class _Heard:
    """The last sign of life of a worker, and when this process first saw it (its own clock: those of others may differ)."""

    sign: dict[str, Any]
    at: float


class Watchdog(threading.Thread):
    """Watches the thread that makes it, in one of the workers of `world`. Without other workers it does nothing.

    timeout_seconds: if no worker makes progress for so long, `die` is called with what is known of all.
    """

    def __init__(self, world: World, timeout_seconds: float, die: Die) -> None:
        super().__init__(name="afa-dist-watchdog", daemon=True)
        self.world = world
        self.timeout_seconds = timeout_seconds
        self.die = die
        self._interval = min(timeout_seconds / POSTS_A_TIMEOUT, LONGEST_INTERVAL_SECONDS)
        self._watched = threading.get_ident()
        self._ended = threading.Event()
        self._store: Any = _store() if world.size > 1 else None
        self._seen, self._moved = beats(), time.monotonic()
        self._posts = 0
        self._heard: dict[int, _Heard] = {}

    def __enter__(self) -> Watchdog:
        if self._store is not None:
            self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if self._store is not None and error is not None and _is_lost_connection(error):
                for _ in range(SILENT_AFTER + 2):  # long enough for whoever is gone to be silent
                    self._listen()
                    time.sleep(self._interval)
                raise LostWorker(f"{self.diagnosis()} ({str(error).splitlines()[0]})") from error
        finally:
            self._ended.set()

    def run(self) -> None:
        while not self._ended.wait(self._interval):
            self._post()
            idle = time.monotonic() - self._moved
            if idle > self.timeout_seconds / 2:
                self._listen()
            if idle > self.timeout_seconds and self._nobody_moves():
                # Others look a little later than this one, and must find what it waits in.
                self._ended.wait(self._interval)
                self._post()
                self.die(f"no progress for {self.timeout_seconds:g} s: {self.diagnosis()}")
                return

    def _post(self) -> None:
        if beats() != self._seen:
            self._seen, self._moved = beats(), time.monotonic()
        self._posts += 1
        sign = {"post": self._posts, "idle": time.monotonic() - self._moved, "host": socket.gethostname()}
        sign |= {"process": os.getpid(), **_place(sys._current_frames().get(self._watched))}
        with contextlib.suppress(RuntimeError):  # the store is gone with the worker that keeps it; `_listen` will tell
            self._store.set(self._key(self.world.rank), json.dumps(sign))

    def _key(self, rank: int) -> str:
        return f"afa-dist/life/{rank}"

    def _listen(self) -> None:
        """Note every worker's last sign of life."""
        for rank in range(self.world.size):
            key = self._key(rank)
            try:
                sign = json.loads(self._store.get(key)) if self._store.check([key]) else None
            except RuntimeError:
                return
            heard = self._heard.get(rank)
            if sign is not None and (heard is None or heard.sign["post"] != sign["post"]):
                self._heard[rank] = _Heard(sign, time.monotonic())

    def _silent(self, rank: int) -> bool:
        heard = self._heard.get(rank)
        return heard is None or time.monotonic() - heard.at > SILENT_AFTER * self._interval

    def _nobody_moves(self) -> bool:
        late = self.timeout_seconds - 2 * self._interval
        return all(self._silent(rank) or self._heard[rank].sign["idle"] > late for rank in range(self.world.size))

    def diagnosis(self) -> str:
        """Which workers are gone or hang, on which hosts, and where."""
        ranks = range(self.world.size)
        if all(self._silent(rank) for rank in ranks):
            return "the store that all workers share does not answer: worker 0, which keeps it, is gone or hangs"
        silent = [rank for rank in ranks if self._silent(rank)]
        busy = [rank for rank in ranks if rank not in silent and not self._heard[rank].sign["waits"]]
        return "; ".join(self._words(rank) for rank in silent or busy or ranks)

    def _words(self, rank: int) -> str:
        if rank not in self._heard:
            return f"worker {rank} never gave a sign of life"
        sign = self._heard[rank].sign
        who = f"worker {rank} ({sign['host']}, process {sign['process']})"
        if self._silent(rank):
            return f"{who} is gone; it was last in {sign['place']}"
        return f"{who} {'waits' if sign['waits'] else 'hangs'} in {sign['place']}"


def _place(frame: FrameType | None) -> dict[str, Any]:
    """Where a thread is, in our own code, and whether it waits for other workers there."""
    place, waits = _ELSEWHERE, False
    while frame is not None:
        name = frame.f_code.co_filename
        waits = waits or any(part in name for part in _WAITING)
        if name.startswith(str(_PACKAGE)) and place == _ELSEWHERE:
            place = f"{Path(name).relative_to(_PACKAGE.parent)}:{frame.f_lineno} ({frame.f_code.co_name})"
        frame = frame.f_back
    return {"place": place, "waits": waits}


def _is_lost_connection(error: BaseException) -> bool:
    """Whether a collective says that another worker is gone. gloo and nccl have no exceptions of their own for it."""
    if not isinstance(error, RuntimeError) or isinstance(error, Stopped | TrainingError):
        return False  # our own words may speak of a broken pipe too: that of a disk
    text = str(error).lower()
    return any(word in text for word in _LOST)


def _store() -> Any:
    """A connection of its own to the store of the process group, which another thread may be waiting in."""
    store = dist.distributed_c10d._get_default_store()
    return store.clone() if hasattr(store, "clone") else store
