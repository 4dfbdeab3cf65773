"""What a process on a node of a job can find out about its own job. Needs the standard library alone."""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

from cluster.slurm.ray_nodes import own_address


def own_id() -> str:
    """The number of this job. Of an array's element the one that stands for nothing else: that of the element which began
    last (SLURM_JOB_ID) stands for the whole array as well.
    """
    array, element = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{element}" if array and element else os.environ["SLURM_JOB_ID"]


def restarts() -> int:
    """How often Slurm has requeued this job."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def placed(words: Sequence[str]) -> list[str]:
    """The words of a command with this node's name in place of `{node}`."""
    return [word.replace("{node}", os.environ.get("SLURMD_NODENAME", "")) for word in words]


def head_address() -> str:
    """This node's address for the others: that on the way to one of them."""
    names = ask("scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]).split()
    own = os.environ.get("SLURMD_NODENAME")
    other = next((name for name in names if name != own), own or "")
    fields = dict(word.partition("=")[::2] for word in ask("scontrol", "-o", "show", "node", other).split())
    return own_address(fields.get("NodeAddr") or other)


def job_fields() -> dict[str, str]:
    """What Slurm knows of this job, by its names for it."""
    return dict(word.partition("=")[::2] for word in ask("scontrol", "-o", "show", "job", own_id()).split())


def is_cancelled(fields: Mapping[str, str]) -> bool:
    """Whether somebody has ended the job for good. One that is preempted looks the same, but for when it was."""
    ending = fields.get("JobState") in ("CANCELLED", "COMPLETING")
    return ending and fields.get("PreemptTime", "None") == "None"


def is_near_limit(fields: Mapping[str, str], at: float, seconds: float) -> bool:
    """Whether the time limit is reached, or is so near to the moment `at`. A preemption moves the end, and is none."""
    if fields.get("Reason") == "TimeLimit":
        return True
    if fields.get("PreemptTime", "None") != "None":
        return False
    try:
        end = datetime.datetime.fromisoformat(fields.get("EndTime", "")).timestamp()
    except ValueError:
        return False
    return end - at <= seconds


def draining_nodes() -> str:
    """Nodes of this job that are being drained, with commas between them."""
    lines = ask("sinfo", "-h", "-N", "-n", os.environ.get("SLURM_JOB_NODELIST", ""), "-o", "%N %T").splitlines()
    return ",".join(sorted({name for name, state in map(str.split, lines) if state.rstrip("*").startswith("drain")}))


def ask(*command: str) -> str:
    """What a command of Slurm answers; nothing if it fails."""
    environment = {**os.environ, "SLURM_TIME_FORMAT": "standard"}
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def say(text: str) -> None:
    """A line in the job's log."""
    at = datetime.datetime.now().astimezone().strftime("%H:%M:%S")
    print(f"afa-dist [{os.environ.get('SLURMD_NODENAME', '')} {at}]: {text}", file=sys.stderr, flush=True)
