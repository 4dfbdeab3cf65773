"""Beside a job on its nodes: starts Ray where there are several, passes warnings on, and says how the job ended.

Exit codes: those of the job; 75 asks the batch script to requeue it; 1 if it has ended for good, with the reason in the
log. Needs the standard library alone, so that it starts at once and lives outside of containers.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType

from cluster.slurm.attempts import LOSS, PREEMPTION, TIMEOUT, WORDS, Attempts, saved_in
from cluster.slurm.ray_nodes import RayNode, Share, own_address, read_json, write_json
from cluster.slurm.task import Work

REQUEUE = 75
"""EX_TEMPFAIL: the same code by which a job says that it was warned and has saved all."""

MISTAKE = 2
CANCELLED = 143
SETTLE_SECONDS = 3.0
AROUND_LIMIT_SECONDS = 90
"""Slurm may warn up to a minute before it was asked to; a warning so near to the limit is of the limit."""


class Heard:
    """The first warning that this process got, and when."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.at = 0.0
        self.why = ""

    def note(self, number: int, why: str = "") -> None:
        if self.signal is None:
            self.signal, self.at, self.why = signal.Signals(number), time.time(), why


@contextlib.contextmanager
def listening() -> Iterator[Heard]:
    """Inside, warnings are noted, in place of submitit's own handlers."""
    heard = Heard()

    def handle(number: int, frame: FrameType | None) -> None:
        heard.note(number)

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGUSR2)}
    before[signal.SIGCONT] = signal.signal(signal.SIGCONT, lambda *_: None)  # comes with every SIGTERM of Slurm
    try:
        yield heard
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def supervise(work: Work) -> int:
    """One start of a job, on one of its nodes; returns the exit code."""
    node, restart = int(os.environ.get("SLURM_PROCID", "0")), int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    job = os.environ["SLURM_JOB_ID"]
    with listening() as heard:
        if node == 0:
            return First(work, job, restart, heard).run()
        return _other(work, meeting_place(work, job, restart), f"{job}.{restart}.{node}")


def meeting_place(work: Work, job: str, restart: int) -> Path:
    """The folder of one start, in which its nodes meet."""
    return Path(work.folder) / f"start-{job}-{restart}"


class First:
    """The first node: runs the job, once or until it may not be tried again."""

    def __init__(self, work: Work, job: str, restart: int, heard: Heard) -> None:
        self.work = work
        self.job = job
        self.restart = restart
        self.heard = heard
        self.meeting = meeting_place(work, job, restart)
        self.attempts = Attempts(Path(work.folder) / f"attempts-{job}.jsonl", work.limits)

    def run(self) -> int:
        self.meeting.mkdir(mode=0o700, exist_ok=True)
        try:
            while True:
                if reason := self.attempts.begin(self.saved(), self.restart):
                    say(f"not started again: {reason}")
                    return 1
                code, trouble = self._start()
                kind, why = self._judge(code)
                why = trouble if kind == LOSS and trouble else why
                self.attempts.end(kind, why, code)
                if kind == "done":
                    (Path(self.work.folder) / self.work.mark).touch()
                if kind not in WORDS:
                    return CANCELLED if kind == "cancelled" else code
                say(f"{WORDS[kind]}{f' ({why})' if why else ''}")
                if reason := self.attempts.may_go_on():
                    say(f"not requeued: {reason}")
                    return 1
                if kind != LOSS or self.work.nodes > 1:  # where there are several, all begin anew
                    say("requeued; it goes on from what was saved")
                    return REQUEUE
        finally:
            write_json(self.meeting / "over.json", {"at": time.time()})
            (self.meeting / "token").unlink(missing_ok=True)

    def saved(self) -> str:
        """What stands for all that the run has saved."""
        if not self.work.saved_command:
            return saved_in(Path(self.work.place))
        done = subprocess.run(self.work.saved_command, capture_output=True, text=True, cwd=self.work.cwd, check=False)
        return done.stdout.strip() or f"unknown-{time.time()}"  # a store that does not answer is no lack of progress

    def _start(self) -> tuple[int, str]:
        """The job, with Ray below it where there are several nodes; returns its exit code, and what was wrong around it."""
        if self.work.nodes == 1:
            return self._job({})
        try:
            with ray_node(self.work, self.meeting, f"{self.job}.{self.restart}.0") as ray:
                address = ray.start_head(head_address())
                say(f"Ray's head is at {address}; {self.work.nodes} nodes")
                port = read_json(self.meeting / "address.json")["dashboard"]
                where = os.environ.get("SLURMD_NODENAME", "NODE")
                say(f"dashboard, from your machine: ssh -L 8265:127.0.0.1:{port} {where}")
                nodes = {"AFA_DIST_RAY_NODES": str(self.work.nodes)}
                return self._job({**ray.environment, "RAY_ADDRESS": address, **nodes}, ray)
        except (RuntimeError, OSError) as error:
            return -signal.SIGKILL, str(error)

    def _job(self, environment: dict[str, str], ray: RayNode | None = None) -> tuple[int, str]:
        command = [*prefix_here(self.work), *self.work.command]
        child = subprocess.Popen(command, cwd=self.work.cwd, env={**os.environ, **environment})
        watch = threading.Thread(target=self._watch_drain, args=(child,), daemon=True)
        watch.start()
        told = False
        while child.poll() is None:
            if self.heard.signal and not told:
                told = True
                say(f"{self.heard.why or self.heard.signal.name}: the job is told to save and stop")
                child.send_signal(self.heard.signal)
            if ray is not None and not told and (broken := self._broken(ray)):
                child.kill()
                return child.wait(), broken
            time.sleep(0.2)
        if child.returncode not in (0, MISTAKE, REQUEUE) and ray is not None and not told:
            time.sleep(SETTLE_SECONDS)  # Ray may take a moment longer to be gone than a job that lost it
            if broken := self._broken(ray):
                return -signal.SIGKILL, broken
        return child.returncode, ""

    def _broken(self, ray: RayNode) -> str:
        if ray.ended():
            return f"Ray's head has stopped, see {ray.log}"
        failed = next(iter(sorted(self.meeting.glob("failed-*.json"))), None)
        return str(read_json(failed)["why"]) if failed else ""

    def _judge(self, code: int) -> tuple[str, str]:
        """What kind of end it was, and why."""
        if code == 0:
            return "done", ""
        if self.heard.signal is not None or code == REQUEUE:
            fields = job_fields(self.job)
            if self._by_limit(fields):
                return TIMEOUT, ""
            if self.heard.signal == signal.SIGTERM and is_cancelled(fields):
                return "cancelled", "by scancel"
            return PREEMPTION, self.heard.why or (self.heard.signal.name if self.heard.signal else "")
        if code == MISTAKE and self.restart > 0:
            # It was right before. The lost start may still live on a node that Slurm has given up, and hold the run.
            return LOSS, "it refused to start, see above"
        if code < 0:
            return LOSS, f"ended by {signal.Signals(-code).name}"
        return "failed", ""

    def _by_limit(self, fields: Mapping[str, str]) -> bool:
        """Whether the warning was of the time limit."""
        if fields.get("Reason") == "TimeLimit":
            return True
        if fields.get("PreemptTime", "None") != "None":  # which moves the end
            return False
        try:
            end = datetime.datetime.fromisoformat(fields.get("EndTime", "")).timestamp()
        except ValueError:
            return False
        at = self.heard.at or time.time()
        return self.heard.signal == signal.SIGUSR2 and end - at <= self.work.signal_seconds + AROUND_LIMIT_SECONDS

    def _watch_drain(self, child: subprocess.Popen[bytes]) -> None:
        """Leave a node that is being drained: whoever does that waits for it."""
        seconds = self.work.drain_seconds
        while seconds and child.poll() is None:
            time.sleep(seconds)
            if drained := draining_nodes():
                self.heard.note(signal.SIGUSR2, f"{drained} is being drained")
                return


def _other(work: Work, meeting: Path, identity: str) -> int:
    """A further node: part of Ray for as long as the first one wants it. Warnings are left to the first one."""
    over = meeting / "over.json"
    try:
        while not meeting.is_dir():
            time.sleep(0.2)
        with ray_node(work, meeting, identity) as ray:
            if ray.join(own_address, over.exists):
                while not over.exists():
                    if ray.ended() and not over.exists():
                        raise RuntimeError(f"Ray has stopped on {os.uname().nodename}, see {ray.log}")
                    time.sleep(0.5)
    except (RuntimeError, OSError) as error:
        say(str(error))
        write_json(meeting / f"failed-{identity}.json", {"why": str(error)})
        return 1
    return 0


def ray_node(work: Work, meeting: Path, identity: str) -> RayNode:
    return RayNode([*prefix_here(work), *work.ray], meeting, identity, Share.of_allocation(os.environ), work.tmp)


def prefix_here(work: Work) -> list[str]:
    """What stands before commands on this node."""
    return [word.replace("{node}", os.environ.get("SLURMD_NODENAME", "")) for word in work.prefix]


def head_address() -> str:
    """This node's address for the others: that on the way to one of them."""
    names = ask("scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]).split()
    own = os.environ.get("SLURMD_NODENAME")
    other = next((name for name in names if name != own), own or "")
    fields = dict(word.partition("=")[::2] for word in ask("scontrol", "-o", "show", "node", other).split())
    return own_address(fields.get("NodeAddr") or other)


def job_fields(job: str) -> dict[str, str]:
    """What Slurm knows of a job, by its names for it."""
    return dict(word.partition("=")[::2] for word in ask("scontrol", "-o", "show", "job", job).split())


def is_cancelled(fields: Mapping[str, str]) -> bool:
    """Whether somebody has ended the job for good. One that is preempted looks the same, but for when it was."""
    ending = fields.get("JobState") in ("CANCELLED", "COMPLETING")
    return ending and fields.get("PreemptTime", "None") == "None"


def draining_nodes() -> str:
    """Nodes of this job that are being drained, with commas between them."""
    lines = ask("sinfo", "-h", "-N", "-n", os.environ.get("SLURM_JOB_NODELIST", ""), "-o", "%N %T").splitlines()
    return ",".join(sorted({name for name, state in map(str.split, lines) if state.rstrip("*").startswith("drain")}))


def ask(*command: str) -> str:
    """What a command of Slurm answers; nothing if it fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def say(text: str) -> None:
    """A line in the job's log."""
    at = datetime.datetime.now().astimezone().strftime("%H:%M:%S")
    print(f"afa-dist [{os.environ.get('SLURMD_NODENAME', '')} {at}]: {text}", file=sys.stderr, flush=True)
