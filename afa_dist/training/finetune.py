"""The fine-tuning step: a classifier on pre-trained features, or a whole network.

Legend: B images of this worker, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from afa_dist.attacks import attack_mode, cross_entropy
from afa_dist.config import FinetuneRun
from afa_dist.data.loader import Batch
from afa_dist.models.networks import Classifier
from afa_dist.training.step import StepOutput, autocast, correct, find_adversarial


class FinetuneStep:
    """Cross-entropy on adversarial images (Madry et al., 1706.06083) or clean ones, of the classifier or everything.

    In mode "linear" the encoder is frozen and stays in evaluation mode; the attack goes through all of the network.
    """

    def __init__(self, net: Classifier, run: FinetuneRun, bf16: bool = False) -> None:
        self.net = net
        self.forward: nn.Module = net
        """`net`, or its DDP wrapper: what the outer pass calls."""
        self.run = run
        self.bf16 = bf16
        if run.mode == "linear":
            net.encoder.requires_grad_(False)

    def parameters(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.net.parameters() if parameter.requires_grad]

    def train_mode(self) -> None:
        self.net.train()
        if self.run.mode == "linear":
            self.net.encoder.eval()

    def compute(self, batch: Batch, step: int, eps: float) -> StepOutput:
        x, y = batch.images_BCHW, batch.labels_B
        if self.run.objective == "pgd":
            x = self.attack(batch, step, eps)
        with autocast(x.device, self.bf16):
            logits = self.forward(x)
        loss = F.cross_entropy(logits, y)
        n = y.shape[0]
        accuracy = "robust_acc" if self.run.objective == "pgd" else "clean_acc"
        return StepOutput(loss, {"loss": (loss.detach() * n, n), accuracy: (correct(logits, y), n)})

    def attack(self, batch: Batch, step: int, eps: float) -> torch.Tensor:
        """x_adv (B, C, H, W), found on the unwrapped network."""
        attack = self.run.attack
        with attack_mode(self.net, attack.bn), autocast(batch.images_BCHW.device, self.bf16):
            return find_adversarial(
                lambda x_adv: cross_entropy(self.net(x_adv), batch.labels_B),
                batch,
                attack,
                eps=eps,
                seed=self.run.seed,
                step=step,
            )

    def logits(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return self.net(x_BCHW)
