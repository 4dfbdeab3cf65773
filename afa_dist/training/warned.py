"""Warnings that a run's time is over, and how all workers heed them together.

A warning comes from a signal to this process (SIGTERM, SIGUSR2: what Slurm, Kubernetes and shells send before they kill),
from the process that started this one, or from the cluster. The step in progress is finished first.
"""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

import torch

from afa_dist.distributed import World

SIGNALS = (signal.SIGTERM, signal.SIGUSR2)

ECHO_SECONDS = 5.0
"""Within this time one warning may come twice: to all processes of a job, and passed on by the one that started them."""

ASK_SECONDS = 1.0
"""Least time between two questions to the cluster; they cost some milliseconds and a message between all workers."""

Source = Callable[[], str]
"""Gives the reason to stop, or an empty text."""


class SignalNote:
    """The name of the first signal of `SIGNALS` that this process got inside `heed_signals`, or an empty text."""

    def __init__(self) -> None:
        self.reason = ""
        self.at = 0.0
        """When it came, on the monotonic clock."""

    def __call__(self) -> str:
        return self.reason


@contextlib.contextmanager
def heed_signals() -> Iterator[SignalNote]:
    """Inside, the first of `SIGNALS` is noted instead of ending the process; one that comes `ECHO_SECONDS` later does
    what it always did. So a process that can finish no step, because it waits for one that is gone, can still be ended.
    Python delivers signals to the main thread alone: in another one they are left to whoever has that.
    """
    note = SignalNote()
    if threading.current_thread() is not threading.main_thread():
        yield note
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if note.reason and time.monotonic() - note.at > ECHO_SECONDS:
            signal.signal(number, before[signal.Signals(number)])
            signal.raise_signal(number)
        elif not note.reason:
            note.reason, note.at = signal.Signals(number).name, time.monotonic()

    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield note
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclasses.dataclass
class Warnings:
    """Where warnings of one worker come from, and what all workers made of them.

    own: this worker's source; asked in every step. cluster: asked by all workers in the same step (it may be a collective),
    about every `ASK_SECONDS`.
    """

    own: Source = str
    cluster: Source | None = None
    reason: str = ""
    """Why all workers stop after this step; empty = they go on."""
    _asked: float = 0.0

    def agree(self, world: World, finite: torch.Tensor | bool = True) -> bool:
        """Ask all sources; returns whether `finite` holds on every rank. All in one collective where there is no news."""
        own = self.own()
        asks = self.cluster is not None and world.is_main and time.monotonic() - self._asked > ASK_SECONDS
        all_finite, no_news, nobody_asks = world.all_true(finite, not own, not asks)
        if not no_news:
            self.reason = next(text for text in world.texts(own) if text)
        if not nobody_asks and self.cluster is not None:
            self._asked = time.monotonic()
            self.reason = self.reason or self.cluster()
        return all_finite
