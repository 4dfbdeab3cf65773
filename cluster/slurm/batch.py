"""Batch scripts by submitit's executor, with what it leaves out: the code to run, a check of its folder, the requeue."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from submitit.slurm.slurm import SlurmExecutor

from cluster.slurm.request import Request
from cluster.slurm.supervisor import REQUEUE

_FOREIGN = ("RAY_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
"""What a shell may have that a job must not take over."""

_BEFORE_HEARING = 128 + 12
"""Exit code of a job that was warned (SIGUSR2) before it could hear."""


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
        gpus_per_node=(request.gpus_per_node or None) if gpus else None,
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
        stderr_to_stdout=True,
        setup=[*_setup(code), *request.setup],
        teardown=_teardown(),
        additional_parameters=_further(request),
    )
    return executor


def _setup(code: Path) -> list[str]:
    return [f"unset {' '.join(_FOREIGN)}", f"export PYTHONPATH={shlex.quote(str(code))} PYTHONUNBUFFERED=1"]


def _teardown() -> list[str]:
    """The requeue is asked for here and not by the job, which may be in a container without Slurm's commands."""
    return [
        "code=$?",
        f'if [ "$code" -eq {REQUEUE} ] || [ "$code" -eq {_BEFORE_HEARING} ]; then',
        '  scontrol requeue "$SLURM_JOB_ID" && sleep 60',
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
    seen = [*container.mounts, str(folder), str(code), str(Path.cwd()), request.tmp]
    if container.kind == "apptainer":
        gpus = ("--nv",) if request.gpus_per_node else ()
        binds = [word for mount in seen for word in ("--bind", mount)]
        return ("apptainer", "exec", *gpus, *binds, "--pwd", str(Path.cwd()), container.image)
    if container.kind == "pyxis":
        mounts = ",".join(mount if ":" in mount else f"{mount}:{mount}" for mount in seen)
        own = ("srun", "--overlap", "--nodes=1", "--ntasks=1", "--nodelist={node}", f"--container-image={container.image}")
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
