"""How often a job began, why it ended each time, and whether it may begin again.

Slurm starts a requeued job from its first line. What it did before stands in a file of one JSON line an event; a start
without an end was lost with its node or its process. Needs the standard library alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import json
import os
from pathlib import Path
from typing import Any

REFUSED = 2
"""Exit code of a job that does not begin, among others since its run is in use."""

TIMEOUT, PREEMPTION, LOSS = "timeout", "preemption", "loss"

WORDS = {
    TIMEOUT: "its time limit was reached",
    PREEMPTION: "it was told to go (preempted, drained or signalled)",
    LOSS: "its node or its process was lost",
}


@dataclasses.dataclass(frozen=True)
class Limits:
    """So often a run goes on after each kind of end, and so many starts in a row may save nothing."""

    timeouts: int
    preemptions: int
    losses: int
    idle: int

    def of(self, kind: str) -> tuple[str, int]:
        """The option that limits a kind of end, and its value."""
        return {
            TIMEOUT: ("max_timeouts", self.timeouts),
            PREEMPTION: ("max_preemptions", self.preemptions),
            LOSS: ("max_losses", self.losses),
        }[kind]


class Attempts:
    """The starts of one job, in `path`."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self.path = path
        self.limits = limits

    def begin(self, saved: str, restart: int) -> str:
        """Record a start; returns why it must not go on, or an empty text.

        saved: stands for everything that the run has saved: equal for two starts between which nothing was.
        """
        events = self.events()
        if events and "began" in events[-1]:
            events.append(self._add({"ended": LOSS}))
        reason = self._over(events, saved)
        if not reason:
            self._add({"began": _now(), "restart": restart, "host": os.uname().nodename, "saved": saved})
        return reason

    def end(self, kind: str, why: str = "", code: int | None = None) -> None:
        """Record how a start ended."""
        self._add({"ended": kind, "why": why, "code": code, "at": _now()})

    def may_go_on(self) -> str:
        """Why a run that has just ended may not be tried again; empty if it may."""
        return self._limit(self.events())

    def events(self) -> list[dict[str, Any]]:
        """All starts and ends; a line that was cut off by a crash is left out."""
        found = []
        for line in self.path.read_text().splitlines() if self.path.exists() else ():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found

    def starts(self) -> int:
        """How often the job began."""
        return sum("began" in event for event in self.events())

    def losses_in_a_row(self) -> int:
        """How many starts were lost since one ended otherwise."""
        kinds = [event["ended"] for event in self.events() if "ended" in event]
        return next((number for number, kind in enumerate(reversed(kinds)) if kind != LOSS), len(kinds))

    def _over(self, events: list[dict[str, Any]], saved: str) -> str:
        # One that was refused, since the start before it still held the run, had no chance to save anything.
        pairs = zip(events, [*events[1:], {}], strict=False)
        starts = [event["saved"] for event, end in pairs if "began" in event and end.get("code") != REFUSED]
        idle = 0
        while idle < len(starts) and starts[-1 - idle] == saved:
            idle += 1
        if idle >= self.limits.idle:
            last = next((event for event in reversed(events) if "ended" in event), {"ended": LOSS})
            why = WORDS.get(last["ended"], last["ended"]) + (f" ({last['why']})" if last.get("why") else "")
            return (
                f"{idle} starts in a row saved nothing (max_idle {self.limits.idle}); the last ended because {why}. "
                "Give each start more time (time, signal_seconds), or save more often (checkpoint.every_steps)"
            )
        return self._limit(events)

    def _limit(self, events: list[dict[str, Any]]) -> str:
        last = next((event["ended"] for event in reversed(events) if "ended" in event), "")
        if last not in WORDS:
            return ""
        option, most = self.limits.of(last)
        count = sum(event.get("ended") == last for event in events)
        return f"{WORDS[last]}, {count} times by now ({option} {most})" if count > most else ""

    def _add(self, event: dict[str, Any]) -> dict[str, Any]:
        with self.path.open("a") as file:
            file.write(json.dumps(event) + "\n")
            file.flush()
            os.fsync(file.fileno())
        return event


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


PASSING = {"lock", "lease.json", "provenance.json", "config.yaml", "metrics.jsonl", "troubles.jsonl", "slurm.json"}
"""Files of a run that change although nothing is saved."""


def saved_in(folder: Path) -> str:
    """What stands for all that a run has saved in a folder: names and sizes of its files."""
    found = []
    for path, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "tensorboard"]
        for file in (Path(path) / name for name in names if name not in PASSING and not name.startswith(".")):
            with contextlib.suppress(OSError):  # it was replaced just now
                found.append((str(file.relative_to(folder)), file.stat().st_size))
    return hashlib.sha256(repr(sorted(found)).encode()).hexdigest()[:16]
