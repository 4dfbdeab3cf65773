"""The first warning that this process got. Needs the standard library alone, and little of it: nothing is to be missed."""

from __future__ import annotations

import signal
import time
from types import FrameType


class Heard:
    """Which warning, when, and why if that is known."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.at = 0.0
        self.why = ""

    def note(self, number: int, why: str = "") -> None:
        if self.signal is None:
            self.signal, self.at, self.why = signal.Signals(number), time.time(), why


heard = Heard()


def listen() -> None:
    """From now on warnings are noted in `heard`, and end nothing; again, if another has put in handlers of its own."""

    def handle(number: int, frame: FrameType | None) -> None:
        heard.note(number)

    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, handle)
    signal.signal(signal.SIGCONT, lambda *_: None)  # comes with every SIGTERM of Slurm
