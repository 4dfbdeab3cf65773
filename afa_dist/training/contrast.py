"""The AFA loss of a global batch spread over workers: which embeddings are anchors, which are keys.

Legend: B images of this worker, G images of the global batch, C channels, H height, W width, D embedding dimensions,
A anchors, K keys.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import torch

from afa_dist.attacks import Objective
from afa_dist.config import MethodConfig
from afa_dist.data.loader import Batch
from afa_dist.distributed import gather, gather_detached
from afa_dist.losses import NOBODY, afa_loss
from afa_dist.training.weighing import weights_of

Embed = Callable[[torch.Tensor], torch.Tensor]
"""Images (B, C, H, W) to unit-length embeddings (B, D)."""


class Keys(NamedTuple):
    """Keys of the global batch, and where in them this worker's images stand."""

    embeddings_KD: torch.Tensor
    labels_K: torch.Tensor
    clean_B: torch.Tensor
    """Index of each own image's clean key, or NOBODY."""
    adversarial_B: torch.Tensor
    """Index of each own image's adversarial key, or NOBODY."""


@dataclasses.dataclass(frozen=True)
class Contrast:
    """The loss of arXiv 2402.12187 with the choices of `method`, for the workers' shares of one batch."""

    method: MethodConfig
    classes: int

    def loss(
        self, z_adv_BD: torch.Tensor, z_clean_BD: torch.Tensor, batch: Batch, generated_weight: float = 1.0
    ) -> torch.Tensor:
        """Mean loss of this worker's anchors, shape (): B of them, or 2B with clean anchors as well.

        Keys are gathered from all workers, with exact gradients. Anchors of generated images count `generated_weight`
        times; keys are keys, whatever they come from.
        """
        kinds, y = self.method.keys, batch.labels_B
        clean_GD = None if kinds == "adversarial" else gather(z_clean_BD)
        adversarial_GD = None if kinds == "clean" else gather(z_adv_BD)
        keys = self._assemble(batch, clean_GD, adversarial_GD)
        z_AD, y_A, itself_A, other_A = z_adv_BD, y, keys.adversarial_B, keys.clean_B
        if self.method.anchors == "both":
            z_AD, y_A = torch.cat([z_adv_BD, z_clean_BD]), y.repeat(2)
            itself_A, other_A = torch.cat([itself_A, other_A]), torch.cat([other_A, itself_A])
        weight_B = weights_of(batch, generated_weight)
        if weight_B is None:
            return self._compare(z_AD, y_A, keys, self_A=itself_A, copy_A=other_A) / len(z_AD)
        weight_A = (weight_B.repeat(len(z_AD) // len(weight_B)) * (len(weight_B) / len(z_AD))).to(z_AD.dtype)
        parts = []
        for weight in weight_A.unique():  # the sum over anchors is all that is there: one for each weight
            own = weight_A == weight
            parts.append(weight * self._compare(z_AD[own], y_A[own], keys, self_A=itself_A[own], copy_A=other_A[own]))
        return torch.stack(parts).sum()

    def attack_needs_clean(self, *, clean_keys: bool) -> bool:
        """Whether an attack on the loss compares with clean images."""
        return clean_keys or self.method.keys != "adversarial"

    def objective(
        self,
        embed: Embed,
        batch: Batch,
        clean_BCHW: torch.Tensor,
        *,
        clean_keys: bool,
        z_clean_BD: torch.Tensor | None = None,
    ) -> Objective:
        """What an attack on the loss maximises: the sum of the losses of adversarial anchors.

        The clean images pass through the network here, once, unless `z_clean_BD` are their embeddings. With `clean_keys`,
        or where the loss has no others, nothing is communicated inside the attack's loop.
        """
        kinds = "clean" if clean_keys else self.method.keys
        clean_GD = None
        if self.attack_needs_clean(clean_keys=clean_keys):
            with torch.no_grad():
                clean_GD = gather_detached(embed(clean_BCHW) if z_clean_BD is None else z_clean_BD)

        def objective(x_adv_BCHW: torch.Tensor) -> torch.Tensor:
            z_adv = embed(x_adv_BCHW)
            keys = self._assemble(batch, clean_GD, None if kinds == "clean" else gather(z_adv))
            return self._compare(z_adv, batch.labels_B, keys, self_A=keys.adversarial_B, copy_A=keys.clean_B)

        return objective

    def _assemble(self, batch: Batch, clean_GD: torch.Tensor | None, adversarial_GD: torch.Tensor | None) -> Keys:
        """Keys from the gathered embeddings that are given, clean ones before adversarial ones."""
        labels_G = batch.labels_G
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

    def _compare(
        self, z_AD: torch.Tensor, y_A: torch.Tensor, keys: Keys, *, self_A: torch.Tensor, copy_A: torch.Tensor
    ) -> torch.Tensor:
        method = self.method
        return afa_loss(
            z_AD,
            keys.embeddings_KD,
            y_A,
            keys.labels_K,
            temperature=method.temperature,
            classes=self.classes,
            self_A=self_A,
            own_copy_A=copy_A,
            own_copy=method.own_copy,
            denominator=method.denominator,
        )
