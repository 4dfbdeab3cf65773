"""Slurm's own commands: one call each, no shell, answers as plain values."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
from collections.abc import Collection, Mapping, MutableMapping, Sequence

from afa_dist.errors import UserError

SECONDS = 60
"""A controller under load answers within this, or not at all."""


@dataclasses.dataclass(frozen=True)
class Partition:
    """What a partition offers. minutes: its time limit, None without one. cpus, memory_mb, gpus: of its largest node."""

    name: str
    default: bool
    up: bool
    nodes: int
    cpus: int
    memory_mb: int
    gpus: int
    minutes: int | None


@dataclasses.dataclass(frozen=True)
class JobState:
    """A job, or an element of an array, as Slurm sees it now. reason: why it waits, or where it runs."""

    id: str
    state: str
    elapsed: str = ""
    limit: str = ""
    reason: str = ""


_DEFAULTS = ("PARTITION", "ACCOUNT", "QOS", "CONSTRAINT", "RESERVATION")
"""Options of sbatch that people set in their shell (SBATCH_...) to be taken where nothing else is said."""


def forget_own_job(environment: MutableMapping[str, str], said: Collection[str] = ()) -> None:
    """Take out of an environment what would change a submission behind our back: the job that it is submitted from, and
    options of sbatch and srun, which go before those of a batch script. said: options that the request gives itself.
    """
    kept = {"SLURM_CONF", *(f"SBATCH_{name}" for name in _DEFAULTS if name.lower() not in said)}
    for name in [name for name in environment if name.startswith(("SLURM_", "SBATCH_", "SRUN_")) and name not in kept]:
        del environment[name]


def ask(*command: str) -> str:
    """The answer of a command.

    Raises:
        UserError: there is no Slurm here, it does not answer, or refuses.
    """
    if shutil.which(command[0]) is None:
        raise UserError.one(command[0], "is not found: this is no machine from which jobs can be submitted to Slurm")
    done = _run(command)
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).strip().splitlines() if line]
        raise UserError.one(command[0], cleaned(lines[-1] if lines else f"exit code {done.returncode}"))
    return done.stdout


def _run(
    command: Sequence[str], given: str | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, input=given, capture_output=True, text=True, timeout=SECONDS, check=False, env=environment
        )
    except subprocess.TimeoutExpired as error:
        raise UserError.one(command[0], f"does not answer within {SECONDS} s") from error


def cleaned(line: str) -> str:
    """A message of Slurm without the name of the program in front of it."""
    return re.sub(r"^(\w+: )*(error: )?", "", line).strip()


def partitions() -> list[Partition]:
    """All partitions."""
    found: dict[str, Partition] = {}
    for line in ask("sinfo", "-h", "-a", "-e", "-o", "%P|%a|%D|%c|%m|%G|%l").splitlines():
        name, up, nodes, cpus, memory, gres, limit = line.split("|")
        bare = name.rstrip("*")
        one = Partition(
            bare, name.endswith("*"), up == "up", int(nodes), _number(cpus), _number(memory), gpus_of(gres), _minutes(limit)
        )
        if old := found.get(bare):
            one = dataclasses.replace(
                one,
                nodes=old.nodes + one.nodes,
                cpus=max(old.cpus, one.cpus),
                memory_mb=max(old.memory_mb, one.memory_mb),
                gpus=max(old.gpus, one.gpus),
            )
        found[bare] = one
    return list(found.values())


def gpus_of(gres: str) -> int:
    """GPUs in a list of generic resources such as `gpu:a100:8(S:0-1),nvme:1`."""
    return sum(int(match[1]) for match in re.finditer(r"\bgpu(?::[^:,(]+)?:(\d+)", gres))


def most_elements() -> int:
    """How many elements one job array may have."""
    for line in ask("scontrol", "show", "config").splitlines():
        name, _, value = line.partition("=")
        if name.strip() == "MaxArraySize":
            return max(1, int(value) - 1)
    return 1000


def tested(script: str) -> str:
    """What Slurm says when it is asked whether it would take a batch script, and when it would start.

    Raises:
        UserError: it would not.
    """
    if shutil.which("sbatch") is None:
        raise UserError.one("sbatch", "is not found: this is no machine from which jobs can be submitted to Slurm")
    done = _run(["sbatch", "--test-only"], given=script)
    lines = [cleaned(line) for line in (done.stderr + done.stdout).strip().splitlines()]
    if done.returncode:
        raise UserError.one("sbatch --test-only", "; ".join(lines) or f"exit code {done.returncode}")
    return lines[-1] if lines else ""


def states(jobs: Sequence[str]) -> dict[str, JobState]:
    """The state of jobs and of elements of arrays, by number: from squeue, what has left it from sacct if there is one."""
    if not jobs:
        return {}
    environment = {**os.environ, "SLURM_TIME_FORMAT": "standard"}
    found = _squeue(jobs, environment)
    gone = [job for job in jobs if not any(key == job or key.startswith(f"{job}_") for key in found)]
    if gone and shutil.which("sacct"):
        found |= _sacct(gone, environment)
    return found


def _squeue(jobs: Sequence[str], environment: Mapping[str, str]) -> dict[str, JobState]:
    # -j with a job that is long gone is an error; the user's jobs are few enough to be asked for together.
    command = ["squeue", "-h", "-r", "--me", "-t", "all", "-o", "%i|%T|%M|%l|%R"]
    done = _run(command, environment=environment)
    if done.returncode:
        raise UserError.one("squeue", cleaned(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "failed"))
    found = {}
    for line in done.stdout.splitlines():
        job, state, elapsed, limit, reason = line.split("|", 4)
        if job.partition("_")[0] in jobs:
            found[job] = JobState(job, state, elapsed, limit, reason.strip("()"))
    return found


def _sacct(jobs: Sequence[str], environment: Mapping[str, str]) -> dict[str, JobState]:
    command = ["sacct", "-n", "-P", "-X", "-j", ",".join(jobs), "-o", "JobID,State,Elapsed,Timelimit"]
    done = _run(command, environment=environment)
    found = {}
    for line in done.stdout.splitlines() if done.returncode == 0 else ():
        job, state, elapsed, limit = line.split("|")
        found[job] = JobState(job, state.split()[0], elapsed, limit)
    return found


def _number(text: str) -> int:
    return int(re.match(r"\d*", text)[0] or 0)  # type: ignore[index]  # "8+": nodes differ


def _minutes(limit: str) -> int | None:
    from cluster.slurm.request import minutes_of

    return minutes_of(limit)
