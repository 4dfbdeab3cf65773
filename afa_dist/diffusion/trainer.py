"""The training loop of a diffusion model: checkpoints are chosen by the loss on held-out images."""

from __future__ import annotations

from afa_dist.config import DiffusionRun
from afa_dist.data.loader import Batch
from afa_dist.diffusion.step import DenoiseStep
from afa_dist.training.execution import eagerly
from afa_dist.training.loop import Trainer
from afa_dist.training.selection import Selection
from afa_dist.training.step import StepOutput


class DiffusionTrainer(Trainer):
    """Trains the denoiser. A loss that grows on held-out images means that training images are being learned by heart."""

    step: DenoiseStep
    config: DiffusionRun

    def new_selection(self) -> Selection:
        return Selection(("loss",), keep=self.config.checkpoint.keep_best)

    def gradient(self, batch: Batch, index: int) -> StepOutput:
        output = self.step.loss(batch, index)
        self.optimiser.zero_grad(set_to_none=True)
        output.loss.backward()
        return output

    def validate(self) -> bool:
        if len(self.splits.held_out) == 0:
            return False
        with self.network_to_use(), eagerly(self.config.scaling.compile, self.world.device):
            self.step.net.eval()
            found = {"loss": self.step.held_out_loss(self.splits.held_out, self.world)}
        self.write_row("validation", found)
        return self.selection.take(self.done, found)
