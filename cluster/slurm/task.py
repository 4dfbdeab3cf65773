"""What Slurm runs on each node of a job: plain words about the work, and the way to whoever does it."""

from __future__ import annotations

import dataclasses

from cluster.slurm.attempts import Limits


@dataclasses.dataclass(frozen=True)
class Work:
    """Plain values alone: submitit keeps this as a pickle between submission and start.

    command: of the job, run on the first node in `cwd`. prefix: stands before each command
    (a container; `{node}` in it becomes the node's name). ray: the command of `ray`. folder: of this submission. place:
    where the run is. saved_command: prints what stands for all that the run has saved, where it is at an address; else
    empty. state: a file in `folder` that says what has become of this work.
    """

    command: tuple[str, ...]
    prefix: tuple[str, ...]
    ray: tuple[str, ...]
    cwd: str
    folder: str
    place: str
    saved_command: tuple[str, ...]
    nodes: int
    tmp: str
    signal_seconds: int
    drain_seconds: float
    limits: Limits
    state: str

    def __call__(self) -> None:
        """Runs on every node of the job; ends with the job's own exit code."""
        from cluster.slurm.supervisor import supervise

        code = supervise(self)
        if code:
            raise SystemExit(code)
