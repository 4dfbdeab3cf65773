"""Batch scripts by submitit's executor, with what it leaves out: the code to run, a check of its folder, the requeue."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from submitit.slurm.slurm import SlurmExecutor

from cluster.slurm.request import Request

_FOREIGN = ("RAY_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
"""What a shell may have that a job must not take over."""

_UNHEARD = (128 + 12, 128 + 9)
"""Exit codes of a job that could not say how it ended: warned (SIGUSR2) before it could hear, or killed."""

_WAIT_SECONDS = 120
"""After the first task of a job has ended the others have so long; they end by themselves, but for a fault."""


class Executor(SlurmExecutor):  # type: ignore[misc]  # submitit has no types that are exported
    """submitit's executor with our own way in. -P: the job's folder is not searched for code before the snapshot."""

    @classmethod
    def affinity(cls) -> int:
        return 2  # whether there is a Slurm is checked by us, with more words

    @property
    def _submitit_command_str(self) -> str:
        return f"{self.python} -u -P -m cluster.slurm.enter {shlex.quote(str(self.folder))}"

    def script(self) -> str:
        """The batch script as it would be submitted."""
        return str(self._make_submission_file_text(self._submitit_command_str, "new"))


def executor_of(
    request: Request, folder: Path, code: Path, name: str, *, nodes: int, gpus: bool = True, after: str = ""
) -> Executor:
    """What submits jobs of this request. gpus: whether they take those of the request. after: a dependency, for Slurm."""
    executor = Executor(folder)
    executor.update_parameters(
        job_name=name,
        time=request.minutes,
        nodes=nodes,
        ntasks_per_node=1,
        cpus_per_task=request.cpus_per_task or None,
        gpus_per_node=_gpus(request) if gpus else None,
        partition=request.partition or None,
        account=request.account or None,
        qos=request.qos or None,
        constraint=request.constraint or None,
        exclude=request.exclude or None,
        nodelist=request.nodelist or None,
        dependency=after or None,
        signal_delay_s=request.signal_seconds,
        array_parallelism=request.max_parallel,
        wckey=None,
        # Tasks end when the first one has; and the exit code of another must not end that one.
        srun_args=[f"--wait={_WAIT_SECONDS}", "--kill-on-bad-exit=0"],
        stderr_to_stdout=True,
        setup=[*_setup(code), *request.setup],
        teardown=_teardown(folder, request.max_losses),
        additional_parameters=_further(request),
    )
    return executor


def _gpus(request: Request) -> str | int | None:
    kind = f"{request.gpu_type}:" if request.gpu_type else ""
    return f"{kind}{request.gpus_per_node}" if request.gpus_per_node else None


def _setup(code: Path) -> list[str]:
    return [
        f"unset {' '.join(_FOREIGN)}",
        f"export PYTHONPATH={shlex.quote(str(code))} PYTHONUNBUFFERED=1",
        # From 22.05 until 23.11 srun does not take it from the job, and a step would have one CPU.
        'if [ "$SLURM_JOB_NUM_NODES" = 1 ]; then cpus=${SLURM_CPUS_PER_TASK:-$SLURM_CPUS_ON_NODE}',
        "else cpus=$SLURM_CPUS_PER_TASK; fi",
        'if [ -n "$cpus" ]; then export SRUN_CPUS_PER_TASK=$cpus; fi',
    ]


def _teardown(folder: Path, most_losses: int) -> list[str]:
    """The requeue is asked for here and not by the job, which may be in a container without Slurm's commands.

    Of an array's element by a number that stands for no other. Whether it is wanted stands in a file: what srun makes of
    the ends of several tasks, one of which was short of memory, says less.
    """
    unheard = " || ".join(f'[ "$code" -eq {code} ]' for code in _UNHEARD)
    return [
        "code=$?",
        "job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}; job=${job:-$SLURM_JOB_ID}",
        "restart=${SLURM_RESTART_COUNT:-0}",
        f'end=$(cat {shlex.quote(str(folder))}/start-"$job-$restart"/end 2>/dev/null)',
        f'if [ -z "$end" ] && {{ {unheard}; }} && [ "$restart" -lt {most_losses} ]; then end=requeue; fi',
        'if [ "$end" = requeue ]; then',
        "  for attempt in 1 2 3 4 5 6 7 8; do",
        '    if scontrol requeue "$job"; then echo "afa-dist: requeued" >&2; sleep 60; break; fi',
        "    sleep 15  # a controller under load",
        "  done",
        "fi",
        'exit "$code"',
    ]


def _further(request: Request) -> dict[str, Any]:
    further: dict[str, Any] = {"requeue": True}
    if request.mem:
        further["mem"] = request.mem
    if request.reservation:
        further["reservation"] = request.reservation
    if request.after or request.chain or request.array:
        further["kill-on-invalid-dep"] = "yes"
    for option in request.extra:
        name, equals, value = option.partition("=")
        further[name] = value if equals else True
    return further


def prefix_of(request: Request, folder: Path, code: Path) -> tuple[str, ...]:
    """What stands before a command of the job: the container that it runs in."""
    container = request.container
    image = str(Path(container.image).expanduser()) if container.image.startswith("~") else container.image
    seen = [*container.mounts, str(folder), str(code), str(Path.cwd()), request.tmp]
    if container.kind == "apptainer":
        gpus = ("--nv",) if request.gpus_per_node else ()
        binds = [word for mount in seen for word in ("--bind", mount)]
        return ("apptainer", "exec", *gpus, *binds, "--pwd", str(Path.cwd()), image)
    if container.kind == "pyxis":
        mounts = ",".join(mount if ":" in mount else f"{mount}:{mount}" for mount in seen)
        own = ("srun", "--overlap", "--nodes=1", "--ntasks=1", "--nodelist={node}", f"--container-image={image}")
        return (*own, f"--container-mounts={mounts}", f"--container-workdir={Path.cwd()}")
    return ()


def python_of(request: Request) -> str:
    """The Python that runs the job."""
    return request.container.python if request.container.kind != "none" else sys.executable


def ray_of(request: Request) -> tuple[str, ...]:
    """The command of `ray`, by the Python that runs the job."""
    return (python_of(request), "-P", "-m", "ray.scripts.scripts")


def shown(command: Sequence[str]) -> str:
    return shlex.join(command)
