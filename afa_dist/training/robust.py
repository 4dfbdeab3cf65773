"""The training loop of robust networks: an attack in every step, and one that chooses checkpoints."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from afa_dist.config import PretrainRun, RobustRun
from afa_dist.data.loader import Batch
from afa_dist.training.averaging import recompute_statistics
from afa_dist.training.awp import worst_weights
from afa_dist.training.execution import eagerly
from afa_dist.training.loop import Trainer
from afa_dist.training.schedule import attack_eps
from afa_dist.training.selection import Selection
from afa_dist.training.step import Step, StepOutput
from afa_dist.training.validate import validate


class RobustTrainer(Trainer):
    """Both stages of AFA, and the baselines."""

    step: Step
    config: RobustRun

    def __init__(self, step: Step, run: RobustRun, *args: Any, **options: Any) -> None:
        """The other arguments are those of `Trainer`."""
        two_views = isinstance(run, PretrainRun) and run.method.views == "independent"
        super().__init__(step, run, *args, two_views=two_views, **options)

    def new_selection(self) -> Selection:
        # A model trained on clean images alone is chosen by its clean accuracy.
        robust = getattr(self.config, "objective", "pgd") != "ce"
        by = ("robust_acc", "clean_acc") if robust else ("clean_acc", "robust_acc")
        return Selection(by, keep=self.config.checkpoint.keep_best)

    def eps(self, index: int) -> float:
        """The attack's radius in step `index`."""
        return attack_eps(self.config.attack, index, self.schedule.total_steps)

    def notes(self, index: int) -> dict[str, float]:
        return {**super().notes(index), "eps": self.eps(index)}

    def gradient(self, batch: Batch, index: int) -> StepOutput:
        x_adv = self.step.attack(batch, index, self.eps(index))
        with self.perturbed_weights(batch, x_adv):
            output = self.step.loss(batch, x_adv)
            self.optimiser.zero_grad(set_to_none=True)
            output.loss.backward()
        return output

    def perturbed_weights(self, batch: Batch, x_adv: torch.Tensor) -> contextlib.AbstractContextManager[None]:
        """Adversarial weights for the gradient of a step, once it is time for them; else the weights as they are."""
        awp = self.config.awp
        if awp.gamma == 0 or self.done < awp.start * self.schedule.total_steps:
            return contextlib.nullcontext()
        parameters = [parameter for _, parameter in self.named]
        return worst_weights(parameters, self.step.net, lambda: self.step.loss(batch, x_adv).loss, awp.gamma)

    def validate(self) -> bool:
        if len(self.splits.held_out) == 0:
            return False
        config, epoch = self.config, self.done // self.loader.steps_per_epoch
        steps = config.validation.steps_at(epoch, config.schedule.epochs)
        with self.network_to_use(), eagerly(config.scaling.compile, self.world.device):
            self.step.net.eval()
            found = validate(self.step, self.splits.held_out, config.validated_threat, steps, config.seed, self.world)
        if config.validation.is_cheap(epoch, config.schedule.epochs):
            self.write_row("validation", {**found, "pgd_steps": steps})
            return False  # a weaker attack than that of the others: no measure to choose by
        self.write_row("validation", found)
        return self.selection.take(self.done, found)

    def prepare_average(self) -> None:
        if self.config.ema.bn == "recomputed":
            images = (self.loader.batch(index).images_BCHW for index in range(self.loader.steps_per_epoch))
            recompute_statistics(self.step.net, images, self.step.net)
