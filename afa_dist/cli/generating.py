"""The commands behind jobs/generate.py."""

from __future__ import annotations

from collections.abc import Sequence

from afa_dist.cli import training
from afa_dist.cli.arguments import parse
from afa_dist.cli.job import resolve_alone, run_command
from afa_dist.config import DiffusionRun


def main(program: str, description: str) -> int:
    """Run one of the commands; returns the exit code."""

    def train(words: Sequence[str]) -> int:
        text = "Train a class-conditional diffusion model (EDM) on the training images."
        return training.run(
            resolve_alone(DiffusionRun), parse(DiffusionRun, words, program=f"{program} train", description=text), "train"
        )

    return run_command({"train": ("train a diffusion model on the training images", train)}, program, description)
