"""The fine-tuning step: a classifier on pre-trained features, or a whole network, from scratch or not.

Legend: B images of this worker, C channels, H height, W width, K classes.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from afa_dist.attacks import Objective, attack_mode, cross_entropy, kl_to_clean
from afa_dist.config import FinetuneRun
from afa_dist.data.loader import Batch
from afa_dist.losses import smoothed_cross_entropy, trades_loss
from afa_dist.models.networks import Classifier, JointForward, JointNet, JointOutput
from afa_dist.training.clean_pass import CleanPass, same_in_attack
from afa_dist.training.contrast import Contrast
from afa_dist.training.step import StepOutput, autocast, correct, find_adversarial
from afa_dist.training.weighing import mean, smoothing_of


class FinetuneStep:
    """Trains the classifier (mode "linear") or everything ("full") by one of three losses:

    ce      cross-entropy on clean images
    pgd     cross-entropy on adversarial images (Madry et al., 1706.06083)
    trades  cross-entropy on clean images + beta * KL(p_clean || p_adv) (TRADES, 1901.08573)

    and, with afa_weight > 0, + afa_weight * the AFA loss of the same images through a projection head: the joint
    variant of arXiv 2402.12187, CE + beta KL + lambda AFA. In mode "linear" the encoder is frozen and stays in
    evaluation mode; the attack goes through all of the network.
    """

    def __init__(self, net: Classifier, run: FinetuneRun, bf16: bool = False) -> None:
        self.net = net
        self.forward: nn.Module = JointForward(net) if isinstance(net, JointNet) else net
        self.run = run
        self.bf16 = bf16
        self.contrast = Contrast(run.method, net.linear.out_features)
        self.clean = CleanPass()
        if run.mode == "linear":
            net.encoder.requires_grad_(False)

    @property
    def backbone(self) -> nn.Module:
        return self.net.encoder

    def parameters(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.net.parameters() if parameter.requires_grad]

    def train_mode(self) -> None:
        self.net.train()
        if self.run.mode == "linear":
            self.net.encoder.eval()

    def attack(self, batch: Batch, step: int, eps: float) -> torch.Tensor:
        """As in `Step`; objective ce attacks nothing and gets the images back."""
        self.clean.drop()  # of a step that was broken off
        if self.run.objective == "ce" or eps == 0:
            return batch.images_BCHW
        attack = self.run.attack
        clean = self.clean_pass(batch)
        with attack_mode(self.net, attack.bn), autocast(batch.images_BCHW.device, self.bf16):
            objective = self.objective(batch, clean)
            return find_adversarial(objective, batch, attack, eps=eps, seed=self.run.seed, step=step)

    @property
    def both(self) -> bool:
        """Whether the loss looks at clean images as well as at adversarial ones."""
        return self.run.objective == "trades" or self.run.afa_weight > 0

    def clean_pass(self, batch: Batch) -> torch.Tensor | JointOutput | None:
        """The outer pass of the clean images, if attack and loss have a use for it and would make the same."""
        if not self.both or self.run.attack_objective == "ce" or not same_in_attack(self.net, self.run.attack.bn):
            return None
        with autocast(batch.images_BCHW.device, self.bf16):
            return cast("torch.Tensor | JointOutput", self.clean.make(self.forward, batch.images_BCHW))

    def objective(self, batch: Batch, clean: torch.Tensor | JointOutput | None = None) -> Objective:
        """What the attack maximises. The clean prediction of TRADES is made once and has no gradient."""
        kind, y = self.run.attack_objective, batch.labels_B
        if kind == "ce":
            return lambda x_adv: cross_entropy(self.net(x_adv), y)
        if kind == "kl":
            with torch.no_grad():
                clean_logits = self.net(batch.images_BCHW) if clean is None else logits_of(clean).detach()
            return lambda x_adv: kl_to_clean(self.net(x_adv), clean_logits)
        assert isinstance(self.net, JointNet)
        z_clean = clean.embeddings_BD if isinstance(clean, JointOutput) else None
        return self.contrast.objective(self.net.embed, batch, batch.images_BCHW, clean_keys=True, z_clean_BD=z_clean)

    def loss(self, batch: Batch, x_adv_BCHW: torch.Tensor) -> StepOutput:
        run, y = self.run, batch.labels_B
        # Both halves in one forward pass where both are needed: BatchNorm sees the mixture, DDP sees one pass.
        with autocast(x_adv_BCHW.device, self.bf16):
            out = self.clean.both(self.forward, x_adv_BCHW, batch.images_BCHW) if self.both else self.forward(x_adv_BCHW)
        adv_logits, clean_logits = logits_of(out).chunk(2) if self.both else (logits_of(out), logits_of(out))

        smoothing = smoothing_of(batch, run.label_smoothing, run.generated.label_smoothing)
        if run.objective == "trades":
            loss_B = trades_loss(clean_logits, adv_logits, y, beta=run.beta, label_smoothing=smoothing)
        else:
            loss_B = smoothed_cross_entropy(adv_logits, y, smoothing)
        loss = mean(loss_B, batch, run.generated.weight)

        n = y.shape[0]
        sums = {}
        if run.afa_weight > 0:
            z_adv, z_clean = out.embeddings_BD.chunk(2)
            afa = self.contrast.loss(z_adv, z_clean, batch, run.generated.weight)
            loss = loss + run.afa_weight * afa
            sums["afa_loss"] = (afa.detach() * n, n)
        if run.objective != "ce":
            sums["robust_acc"] = (correct(adv_logits, y), n)
        if self.both or run.objective == "ce":
            sums["clean_acc"] = (correct(clean_logits, y), n)
        return StepOutput(loss, {"loss": (loss.detach() * n, n), **sums})

    def logits(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return self.net(x_BCHW)


def logits_of(out: torch.Tensor | JointOutput) -> torch.Tensor:
    """The logits (B, K) in what the outer pass gives."""
    return out if isinstance(out, torch.Tensor) else out.logits_BK
