"""The AFA pre-training step.

Legend: B images of this worker, C channels, H height, W width, A anchors.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from afa_dist.attacks import Objective, attack_mode, cross_entropy, kl_to_clean
from afa_dist.config import PretrainRun
from afa_dist.data.loader import Batch
from afa_dist.models.networks import ContrastiveNet
from afa_dist.training.contrast import Contrast
from afa_dist.training.step import StepOutput, autocast, correct, find_adversarial


class PretrainStep:
    """min over weights, max over the ball, of the AFA loss (arXiv 2402.12187): attack, embed, compare with all keys.

    With attack.eps 0 it is clean supervised contrast (SupCon, 2004.11362), with attack.objective "ce" SupRobCon's attack.
    """

    def __init__(self, net: ContrastiveNet, run: PretrainRun, bf16: bool = False) -> None:
        self.net = net
        self.forward: nn.Module = net
        self.run = run
        self.bf16 = bf16
        self.contrast = Contrast(run.method, net.probe.out_features)

    def parameters(self) -> list[nn.Parameter]:
        return list(self.net.parameters())

    def train_mode(self) -> None:
        self.net.train()

    def attack(self, batch: Batch, step: int, eps: float) -> torch.Tensor:
        attack = self.run.attack
        if eps == 0:
            return batch.images_BCHW
        with attack_mode(self.net, attack.bn), autocast(batch.images_BCHW.device, self.bf16):
            return find_adversarial(self.objective(batch), batch, attack, eps=eps, seed=self.run.seed, step=step)

    def objective(self, batch: Batch) -> Objective:
        """What the attack maximises. The clean images pass through the network once, before the first step."""
        attack, y = self.run.attack, batch.labels_B
        if attack.objective == "ce":
            return lambda x_adv: cross_entropy(self.net.classify(x_adv), y)
        if attack.objective == "kl":
            with torch.no_grad():
                clean_logits = self.net.classify(batch.images_BCHW)
            return lambda x_adv: kl_to_clean(self.net.classify(x_adv), clean_logits)
        return self.contrast.objective(self.net.embed, batch, batch.other_view, clean_keys=attack.keys == "clean")

    def loss(self, batch: Batch, x_adv_BCHW: torch.Tensor) -> StepOutput:
        y, n = batch.labels_B, batch.labels_B.shape[0]
        # One forward of both halves: BatchNorm sees the mixture it will be used on, and DDP sees one pass. Without an
        # attack and with one view they are the same images, which need not pass twice.
        halves = 1 if x_adv_BCHW is batch.other_view else 2
        with autocast(x_adv_BCHW.device, self.bf16):
            out = self.forward(torch.cat([x_adv_BCHW, batch.other_view][:halves]))
        z_adv, z_clean = out.embeddings_BD[:n], out.embeddings_BD[-n:]
        adv_logits, clean_logits = out.probe_logits_BK[:n], out.probe_logits_BK[-n:]
        loss = self.contrast.loss(z_adv, z_clean, batch)
        probe_loss = F.cross_entropy(adv_logits, y)
        sums = {
            "loss": (loss.detach() * n, n),
            "probe_robust_acc": (correct(adv_logits, y), n),
            "probe_clean_acc": (correct(clean_logits, y), n),
        }
        return StepOutput(loss + probe_loss, sums)

    def logits(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return self.net.classify(x_BCHW)
