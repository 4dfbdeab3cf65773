"""What a loss or gradient that is not finite does to a run: it ends, or the step is left out. Weights never take part."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn

from afa_dist.config import UpdateConfig
from afa_dist.distributed import World
from afa_dist.errors import TrainingError
from afa_dist.training.run_dir import RunDirectory

ADVICE = "Lower optimiser.lr, set optimiser.clip_norm, or raise method.temperature, under another name"


@dataclasses.dataclass(frozen=True)
class Incident:
    """A step that was not finite: its number, this worker's loss (shape ()), the norm of the gradient over all of them.

    notes: what else it takes to make it again, as JSON.
    """

    step: int
    loss: torch.Tensor
    gradient_norm: torch.Tensor
    notes: dict[str, Any]


class NotFinite:
    """Answers incidents as `config` says. One a worker; all of them call the same methods in the same steps.

    skipped: steps left out so far, over all starts of the run.
    """

    def __init__(self, net: nn.Module, config: UpdateConfig, directory: RunDirectory, world: World) -> None:
        self.skipped = 0
        self._net = net
        self._config = config
        self._directory = directory
        self._world = world
        self._buffers: dict[str, torch.Tensor] = {}

    def prepare(self) -> None:
        """Before a step: note what its forward passes change, if it may have to be taken back (BatchNorm's statistics)."""
        if self._config.not_finite == "skip":
            self._buffers = {name: buffer.clone() for name, buffer in self._net.named_buffers()}

    def answer(self, incident: Incident) -> None:
        """Leave a reproducer, and take the step back.

        Raises:
            TrainingError: not_finite is "stop", or too many steps were left out.
        """
        losses = self._world.texts(f"{incident.loss.item():g}")
        if self._world.is_main:
            self._write(incident, losses)
        where = ", ".join(f"worker {rank}: {text}" for rank, text in enumerate(losses))
        what = f"step {incident.step}: the loss or its gradient is not finite (loss: {where}; gradient norm "
        what += f"{incident.gradient_norm.item():g}). No weight was changed by it; the last checkpoint is intact"
        if self._config.not_finite == "stop":
            raise TrainingError(f"{what}. {ADVICE}; or leave such steps out with optimiser.not_finite skip")
        if self.skipped >= self._config.max_skipped:
            raise TrainingError(f"{what}, and optimiser.max_skipped = {self.skipped} such steps were left out. {ADVICE}")
        self.skipped += 1
        with torch.no_grad():
            for name, buffer in self._net.named_buffers():
                buffer.copy_(self._buffers[name])

    def _write(self, incident: Incident, losses: list[str]) -> None:
        self._directory.write_json(
            f"not-finite-{incident.step:08d}.json",
            {
                "step": incident.step,
                "loss of each worker": losses,
                "gradient_norm": f"{incident.gradient_norm.item():g}",
                **incident.notes,
                "how": "config.yaml beside this file, the weights of the checkpoint, and the steps from there on: all "
                "randomness follows from the seed and the number of the step",
            },
        )
