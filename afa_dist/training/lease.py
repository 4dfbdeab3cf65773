"""Who works on a run that lies at an address: one start at a time, known by its identity in provenance.json.

An object store has no locks. The holder writes a few words under an agreed name, again and again; one that has fallen
silent is gone. Of two that come at the same moment the one whose words remain is the holder.
"""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from afa_dist.address import without_options
from afa_dist.errors import TrainingError, UserError
from afa_dist.training.mirror import LEASE, UNANSWERED, Mirror, words
from afa_dist.training.run_dir import RunDirectory

BEAT_SECONDS = 10.0
SILENT_SECONDS = 40.0
"""A holder that has not written for so long is gone. Watched for, so that clocks need not agree."""

SETTLE_SECONDS = 1.0
"""After so long, whoever else came at the same moment has written as well."""


class Lease:
    """Held inside a `with` by one start of a run.

    option: which option to change where it is refused. needed: if not, a place that does not answer is worked on unheld.
    lost: who took over, because this process did not write for long (it was halted); empty while it is the holder.

    Raises:
        UserError: another process works on the run, and is alive.
        TrainingError: the address does not answer.
    """

    def __init__(self, address: str, start: str, option: str, needed: bool = True) -> None:
        self.address = address
        self.start = start
        self.option = option
        self.needed = needed
        self.lost = ""
        self._beats = 0
        self._claim = Claim(start, frozenset())
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="afa-dist-lease", daemon=True)

    def __enter__(self) -> Lease:
        try:
            self.mirror = Mirror(self.address)
            self._take()
            self._claim = Claim(self.start, frozenset(ids_of(self.mirror.starts())))
        except UserError:
            raise
        except UNANSWERED as error:
            if self.needed:
                where = without_options(self.address)
                raise TrainingError(f"{where} cannot be used: {words(error)}") from error
            return self
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(timeout=BEAT_SECONDS)
        try:
            if self._thread.ident is not None and holder_of(self.mirror) == self.start:
                self.mirror.delete(LEASE)
        except UNANSWERED:
            return  # it will be found silent
        if self.lost:
            raise TrainingError(f"{self.mirror.place} was taken over by {self.lost} while this one was halted") from error

    def loss(self) -> str:
        """Why the run must end; empty while this start holds it."""
        return f"{self.lost}, which took the run over" if self.lost else ""

    def _take(self) -> None:
        watched, since = "", time.monotonic()
        while True:
            found = self.mirror.read_text(LEASE)
            holder = _parsed(found)
            alive = _alive_here(holder) if holder else False
            if alive or (watched and found != watched and alive is None):
                what = f"{self.mirror.place} is in use by {holder['who']}; wait for it, or choose another name"
                raise UserError.one(self.option, what)
            if alive is False or (found == watched and time.monotonic() - since > SILENT_SECONDS):
                self._write()
                time.sleep(SETTLE_SECONDS)
                if holder_of(self.mirror) == self.start:
                    return
            elif not watched:
                watched, since = found, time.monotonic()
                what = f"{holder['who']} worked on {self.mirror.place}"
                warnings.warn(f"{what}; waiting up to {SILENT_SECONDS:g} s to see if it still does", stacklevel=3)
            time.sleep(min(1.0, BEAT_SECONDS / 4))

    def _write(self) -> None:
        self._beats += 1
        self.mirror.write_text(LEASE, json.dumps({"start": self.start, "beats": self._beats, **_who()}))

    def _work(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            try:
                if who := self._claim.taken_by(self.mirror):
                    self.lost = who
                    return
                self._write()
            except UNANSWERED:
                continue  # it does not answer now; nobody else can take over then either


@dataclasses.dataclass(frozen=True)
class Claim:
    """That a run is one start's own.

    start: that one. known: those that were known when it began; one that is unknown has come since.
    """

    start: str
    known: frozenset[str]

    @classmethod
    def of(cls, directory: RunDirectory) -> Claim:
        """That of the last start of a directory."""
        return cls(str(directory.last_start().get("start", "")), frozenset(ids_of(directory.starts())))

    def taken_by(self, mirror: Mirror) -> str:
        """Who works on the run, or did, since it was this start's own; empty if nobody."""
        holder = _parsed(mirror.read_text(LEASE))
        if holder:
            return "" if holder["start"] == self.start else str(holder["who"])
        # Nobody holds it: either the place was lost, or whoever took it has ended; that one has left its name.
        unknown = [start for start in ids_of(mirror.starts()) if start not in {self.start, *self.known}]
        return f"a start that has ended ({unknown[-1]})" if unknown else ""

    def check(self, mirror: Mirror) -> None:
        """
        Raises:
            TrainingError: another start has taken it.
        """
        if who := self.taken_by(mirror):
            raise TrainingError(f"{mirror.place} is the work of {who} now")


def ids_of(starts: Sequence[Mapping[str, Any]]) -> list[str]:
    """The identities of starts."""
    return [str(start["start"]) for start in starts if "start" in start]


def holder_of(mirror: Mirror) -> str:
    """The start that holds the lease of a mirror; empty where nobody does."""
    return str(_parsed(mirror.read_text(LEASE)).get("start", ""))


def _parsed(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
        return found if {"start", "who"} <= found.keys() else {}
    except (ValueError, AttributeError):
        return {}


def _who() -> dict[str, Any]:
    import psutil  # here: the training loop alone does without it

    pid = os.getpid()
    who = f"process {pid} on {socket.gethostname()}"
    return {"who": who, "machine": _machine(), "pid": pid, "began": psutil.Process().create_time()}


def _alive_here(holder: dict[str, Any]) -> bool | None:
    """Whether the holder is another process of this machine that has not ended; None if it is of another machine."""
    import psutil

    if not holder.get("machine") or holder["machine"] != _machine():
        return None
    try:
        process = psutil.Process(holder["pid"])
        # It is counted from the start of the machine, which corrections of the clock shift a little.
        alive = abs(process.create_time() - holder["began"]) < 5 and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, KeyError, TypeError, ValueError):
        return False
    return bool(alive) and holder["pid"] != os.getpid()


def _machine() -> str:
    """What makes numbers of processes comparable: the start of this machine, and the container; empty where not known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""
