"""The AFA pre-training step.

Legend: B images of this worker, G images of the global batch, C channels, H height, W width, D embedding dimensions,
A anchors, K keys.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from afa_dist.attacks import Objective, attack_mode, cross_entropy, kl_to_clean
from afa_dist.config import PretrainRun
from afa_dist.data.loader import Batch
from afa_dist.distributed import gather, gather_detached
from afa_dist.losses import NOBODY, afa_loss
from afa_dist.models.networks import ContrastiveNet
from afa_dist.training.step import StepOutput, autocast, correct, find_adversarial


class Keys(NamedTuple):
    """Keys of the global batch, and where in them this worker's images stand."""

    embeddings_KD: torch.Tensor
    labels_K: torch.Tensor
    clean_B: torch.Tensor
    """Index of each own image's clean key, or NOBODY."""
    adversarial_B: torch.Tensor
    """Index of each own image's adversarial key, or NOBODY."""


class PretrainStep:
    """min over weights, max over the ball, of the AFA loss (arXiv 2402.12187): attack, embed, compare with all keys."""

    def __init__(self, net: ContrastiveNet, run: PretrainRun, bf16: bool = False) -> None:
        self.net = net
        self.forward: nn.Module = net
        """`net`, or its DDP wrapper: what the outer pass calls."""
        self.run = run
        self.bf16 = bf16

    def parameters(self) -> list[nn.Parameter]:
        return list(self.net.parameters())

    def train_mode(self) -> None:
        self.net.train()

    def compute(self, batch: Batch, step: int, eps: float) -> StepOutput:
        x, y = batch.images_BCHW, batch.labels_B
        labels_G = gather_detached(y)
        x_adv = self.attack(batch, labels_G, step, eps)

        # One forward of both halves: BatchNorm sees the mixture it will be used on, and DDP sees one pass.
        with autocast(x.device, self.bf16):
            out = self.forward(torch.cat([x_adv, x]))
        z_adv, z_clean = out.embeddings_BD.chunk(2)
        kinds = self.run.method.keys
        clean_GD = None if kinds == "adversarial" else gather(z_clean)
        keys = self.assemble(batch, labels_G, clean_GD, None if kinds == "clean" else gather(z_adv))
        loss_A = self.contrast(z_adv, y, keys, self_B=keys.adversarial_B, copy_B=keys.clean_B)
        if self.run.method.anchors == "both":
            loss_clean_A = self.contrast(z_clean, y, keys, self_B=keys.clean_B, copy_B=keys.adversarial_B)
            loss_A = torch.cat([loss_A, loss_clean_A])

        adv_logits, clean_logits = out.probe_logits_BK.chunk(2)
        probe_loss = F.cross_entropy(adv_logits, y)
        n = y.shape[0]
        sums = {
            "loss": (loss_A.detach().sum(), loss_A.shape[0]),
            "probe_robust_acc": (correct(adv_logits, y), n),
            "probe_clean_acc": (correct(clean_logits, y), n),
        }
        return StepOutput(loss_A.mean() + probe_loss, sums)

    def attack(self, batch: Batch, labels_G: torch.Tensor, step: int, eps: float) -> torch.Tensor:
        """x_adv (B, C, H, W), found on the unwrapped network."""
        attack = self.run.attack
        with attack_mode(self.net, attack.bn), autocast(batch.images_BCHW.device, self.bf16):
            objective = self.objective(batch, labels_G)
            return find_adversarial(objective, batch, attack, eps=eps, seed=self.run.seed, step=step)

    def objective(self, batch: Batch, labels_G: torch.Tensor) -> Objective:
        """What the attack maximises. The clean images pass through the network once, before the first step."""
        x, y = batch.images_BCHW, batch.labels_B
        attack, method = self.run.attack, self.run.method
        if attack.objective == "ce":
            return lambda x_adv: cross_entropy(self.net.classify(x_adv), y)
        if attack.objective == "kl":
            with torch.no_grad():
                clean_logits = self.net.classify(x)
            return lambda x_adv: kl_to_clean(self.net.classify(x_adv), clean_logits)

        kinds = "clean" if attack.keys == "clean" else method.keys
        clean_GD = None
        if kinds != "adversarial":
            with torch.no_grad():
                clean_GD = gather_detached(self.net.embed(x))

        def afa_objective(x_adv: torch.Tensor) -> torch.Tensor:
            z_adv = self.net.embed(x_adv)
            # With clean keys only, nothing is communicated inside the loop.
            keys = self.assemble(batch, labels_G, clean_GD, None if kinds == "clean" else gather(z_adv))
            return self.contrast(z_adv, y, keys, self_B=keys.adversarial_B, copy_B=keys.clean_B)

        return afa_objective

    def assemble(
        self, batch: Batch, labels_G: torch.Tensor, clean_GD: torch.Tensor | None, adversarial_GD: torch.Tensor | None
    ) -> Keys:
        """Keys from the gathered embeddings that are given, clean ones before adversarial ones."""
        own_B = batch.start + torch.arange(batch.labels_B.shape[0], device=labels_G.device)
        nobody_B = torch.full_like(own_B, NOBODY)
        kinds = [z_GD for z_GD in (clean_GD, adversarial_GD) if z_GD is not None]
        first_adversarial = 0 if clean_GD is None else labels_G.shape[0]
        return Keys(
            torch.cat(kinds),
            labels_G.repeat(len(kinds)),
            nobody_B if clean_GD is None else own_B,
            nobody_B if adversarial_GD is None else own_B + first_adversarial,
        )

    def contrast(
        self, z_AD: torch.Tensor, y_A: torch.Tensor, keys: Keys, *, self_B: torch.Tensor, copy_B: torch.Tensor
    ) -> torch.Tensor:
        method = self.run.method
        return afa_loss(
            z_AD,
            keys.embeddings_KD,
            y_A,
            keys.labels_K,
            temperature=method.temperature,
            self_A=self_B,
            own_copy_A=copy_B,
            own_copy=method.own_copy,
            denominator=method.denominator,
        )

    def logits(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return self.net.classify(x_BCHW)
