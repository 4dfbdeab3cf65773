"""Beside a job on its nodes: starts Ray where there are several, passes warnings on, and says how the job ended.

Exit codes: those of the job; 75 asks the batch script to requeue it; 1 if it has ended for good, with the reason in the
log. Needs the standard library alone, so that it starts at once and lives outside of containers.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from pathlib import Path

from cluster.slurm.attempts import LOSS, PREEMPTION, REFUSED, TIMEOUT, WORDS, Attempts, saved_in
from cluster.slurm.heard import Heard, heard, listen
from cluster.slurm.here import (
    draining_nodes,
    head_address,
    is_cancelled,
    is_near_limit,
    job_fields,
    own_id,
    placed,
    restarts,
    say,
)
from cluster.slurm.ray_nodes import JOIN_SECONDS, RayNode, Share, own_address, read_json, write_json
from cluster.slurm.task import Work

REQUEUE = 75
"""EX_TEMPFAIL: the same code by which a job says that it was warned and has saved all."""

CANCELLED = 143
SETTLE_SECONDS = 3.0
PAUSE_SECONDS, LONGEST_PAUSE = 60, 600
"""Before a job whose process was lost twice in a row is started here again; each time as much longer."""

AROUND_LIMIT_SECONDS = 90
"""Slurm may warn up to a minute before it was asked to; a warning so near to the limit is of the limit."""


def supervise(work: Work) -> int:
    """One start of a job, on one of its nodes; returns the exit code."""
    listen()  # in place of submitit's own handlers
    node, job, restart = int(os.environ.get("SLURM_PROCID", "0")), own_id(), restarts()
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
        state = Path(self.work.folder) / self.work.state
        write_json(state, {"job": self.job})
        try:
            code, kind = self._starts()
            write_json(state, {"job": self.job, "kind": kind, "code": code})
            # For the batch script: what srun makes of several exit codes says less.
            (self.meeting / "end").write_text("requeue" if kind in WORDS and code == REQUEUE else "final")
            return code
        finally:
            write_json(self.meeting / "over.json", {"at": time.time()})
            (self.meeting / "token").unlink(missing_ok=True)

    def _starts(self) -> tuple[int, str]:
        """Start the job, here again if it was lost; returns the exit code, and what kind of end the last one was."""
        while True:
            if reason := self.attempts.begin(self.saved(), self.restart):
                say(f"not started again: {reason}")
                return 1, "over"
            code, trouble = self._start()
            kind, why = self._judge(code)
            why = trouble if kind == LOSS and trouble else why
            self.attempts.end(kind, why, code)
            if kind not in WORDS:
                return CANCELLED if kind == "cancelled" else code, kind
            say(f"{WORDS[kind]}{f' ({why})' if why else ''}")
            if reason := self.attempts.may_go_on():
                say(f"not requeued: {reason}")
                return 1, "over"
            if kind != LOSS or self.work.nodes > 1:  # where there are several, all begin anew
                say("asks for a requeue; it goes on from what was saved")
                return REQUEUE, kind
            self._pause()

    def _pause(self) -> None:
        """Whatever takes a job's process again and again, or still holds its run, may need a while to be gone."""
        seconds = min(LONGEST_PAUSE, PAUSE_SECONDS * (self.attempts.losses_in_a_row() - 1))
        if seconds:
            say(f"begins again in {seconds} s")
        until = time.monotonic() + seconds
        while time.monotonic() < until and self.heard.signal is None:
            time.sleep(0.5)

    def saved(self) -> str:
        """What stands for all that the run has saved."""
        if not self.work.saved_command:
            return saved_in(Path(self.work.place))
        command = placed(self.work.saved_command)
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.work.cwd, check=False)
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
        command = [*placed(self.work.prefix), *self.work.command]
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
        if child.returncode not in (0, REFUSED, REQUEUE) and ray is not None and not told:
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
            fields, at = job_fields(), self.heard.at or time.time()
            by_slurm = self.heard.signal == signal.SIGUSR2 or fields.get("Reason") == "TimeLimit"
            if by_slurm and is_near_limit(fields, at, self.work.signal_seconds + AROUND_LIMIT_SECONDS):
                return TIMEOUT, ""
            if self.heard.signal == signal.SIGTERM and is_cancelled(fields):
                return "cancelled", "by scancel"
            return PREEMPTION, self.heard.why or (self.heard.signal.name if self.heard.signal else "")
        if code == REFUSED and self.attempts.starts() > 1:
            # It was right before. The lost start may still live on a node that Slurm has given up, and hold the run.
            return LOSS, "it refused to start, see above"
        if code < 0:
            return LOSS, f"ended by {signal.Signals(-code).name}"
        return "failed", ""

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
        until = time.monotonic() + JOIN_SECONDS
        while not meeting.is_dir():
            if time.monotonic() > until:
                raise RuntimeError(f"the first node of the job has not begun within {JOIN_SECONDS:g} s")
            time.sleep(0.2)
        with ray_node(work, meeting, identity) as ray:
            if ray.join(own_address, over.exists):
                while not over.exists():
                    if ray.ended() and not over.exists():
                        raise RuntimeError(f"Ray has stopped on {os.uname().nodename}, see {ray.log}")
                    time.sleep(0.5)
    except (RuntimeError, OSError) as error:
        say(str(error))
        if meeting.is_dir():
            write_json(meeting / f"failed-{identity}.json", {"why": str(error)})
        return 1
    return 0


def ray_node(work: Work, meeting: Path, identity: str) -> RayNode:
    return RayNode([*placed(work.prefix), *work.ray], meeting, identity, Share.of_allocation(os.environ), work.tmp)
