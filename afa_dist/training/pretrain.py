"""The AFA pre-training step.

Legend: B images of this worker, C channels, H height, W width, A anchors.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from afa_dist.attacks import Objective, attack_mode, cross_entropy, kl_to_clean
from afa_dist.config import PretrainRun
from afa_dist.data.loader import Batch
from afa_dist.models.networks import ContrastiveNet, Embedded
from afa_dist.training.clean_pass import CleanPass, same_in_attack
from afa_dist.training.contrast import Contrast
from afa_dist.training.step import StepOutput, autocast, correct, find_adversarial
from afa_dist.training.weighing import mean


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
        self.clean = CleanPass()

    @property
    def backbone(self) -> nn.Module:
        return self.net.encoder

    def parameters(self) -> list[nn.Parameter]:
        return list(self.net.parameters())

    def train_mode(self) -> None:
        self.net.train()

    def attack(self, batch: Batch, step: int, eps: float) -> torch.Tensor:
        attack = self.run.attack
        self.clean.drop()  # of a step that was broken off
        if eps == 0:
            return batch.images_BCHW
        clean = self.clean_pass(batch)
        with attack_mode(self.net, attack.bn), autocast(batch.images_BCHW.device, self.bf16):
            objective = self.objective(batch, clean)
            return find_adversarial(objective, batch, attack, eps=eps, seed=self.run.seed, step=step)

    def clean_pass(self, batch: Batch) -> Embedded | None:
        """The outer pass of the clean images, if the attack has a use for it and would make the same."""
        attack, one_view = self.run.attack, batch.second_BCHW is None
        needed = attack.objective == "kl" and one_view
        if attack.objective == "afa":
            needed = self.contrast.attack_needs_clean(clean_keys=attack.keys == "clean")
        if not needed or not same_in_attack(self.net, attack.bn):
            return None
        with autocast(batch.images_BCHW.device, self.bf16):
            return cast("Embedded", self.clean.make(self.forward, batch.other_view))

    def objective(self, batch: Batch, clean: Embedded | None = None) -> Objective:
        """What the attack maximises. The clean images pass through the network once, before the first step."""
        attack, y = self.run.attack, batch.labels_B
        if attack.objective == "ce":
            return lambda x_adv: cross_entropy(self.net.classify(x_adv), y)
        if attack.objective == "kl":
            with torch.no_grad():
                clean_logits = clean.probe_logits_BK.detach() if clean else self.net.classify(batch.images_BCHW)
            return lambda x_adv: kl_to_clean(self.net.classify(x_adv), clean_logits)
        z_clean = clean.embeddings_BD if clean else None
        clean_keys = attack.keys == "clean"
        return self.contrast.objective(self.net.embed, batch, batch.other_view, clean_keys=clean_keys, z_clean_BD=z_clean)

    def loss(self, batch: Batch, x_adv_BCHW: torch.Tensor) -> StepOutput:
        y, n = batch.labels_B, batch.labels_B.shape[0]
        # One forward of both halves: BatchNorm sees the mixture it will be used on, and DDP sees one pass. Without an
        # attack and with one view they are the same images, which need not pass twice.
        with autocast(x_adv_BCHW.device, self.bf16):
            same = x_adv_BCHW is batch.other_view
            out = self.forward(x_adv_BCHW) if same else self.clean.both(self.forward, x_adv_BCHW, batch.other_view)
        z_adv, z_clean = out.embeddings_BD[:n], out.embeddings_BD[-n:]
        adv_logits, clean_logits = out.probe_logits_BK[:n], out.probe_logits_BK[-n:]
        weight = self.run.generated.weight
        loss = self.contrast.loss(z_adv, z_clean, batch, weight)
        probe_loss = mean(F.cross_entropy(adv_logits, y, reduction="none"), batch, weight)
        sums = {
            "loss": (loss.detach() * n, n),
            "probe_robust_acc": (correct(adv_logits, y), n),
            "probe_clean_acc": (correct(clean_logits, y), n),
        }
        return StepOutput(loss + probe_loss, sums)

    def logits(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return self.net.classify(x_BCHW)
