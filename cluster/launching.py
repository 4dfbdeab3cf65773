"""What the launchers of Slurm and of Ray clusters have in common, beside the code that they send."""

from __future__ import annotations

from collections.abc import Iterator

from afa_dist.cli.arguments import Arguments
from afa_dist.errors import Problem
from cluster.snapshot import ROOT


def job_names() -> list[str]:
    """The jobs there are."""
    return sorted(path.stem for path in (ROOT / "jobs").glob("*.py"))


def config_problems(arguments: Arguments) -> Iterator[Problem]:
    """A recipe among the launcher's own options, where it says nothing."""
    if arguments.config:
        yield Problem("--config", f"is an option of the job: write it behind --, as in -- --config {arguments.config}")
