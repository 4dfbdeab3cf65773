"""The commands behind jobs/generate.py."""

from __future__ import annotations

from collections.abc import Sequence

from afa_dist.cli import inspecting, sampling, selecting, training
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

    commands = {
        "train": ("train a diffusion model on the training images", train),
        "sample": ("draw a set of images from a diffusion model", lambda words: sampling.main(words, f"{program} sample")),
        "select": ("choose among images, or label them", lambda words: selecting.main(words, f"{program} select")),
        "inspect": ("see what such a set is worth", lambda words: inspecting.main(words, f"{program} inspect")),
    }
    return run_command(commands, program, description)
