"""A network and its test images: classifies and attacks any shard of them.

Legend: N images of the shard, S images still standing, R of them broken, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from afa_dist.attacks import Ball, margin
from afa_dist.config import EvaluateRun
from afa_dist.data.image_set import ImageSet
from afa_dist.errors import UserError
from afa_dist.evaluation.attacking import attack_standing, measuring
from afa_dist.evaluation.outcome import CLEAN, Outcome, attacked_hash


class ShardEvaluator:
    """Evaluates any shard of a run; made once for each process that takes part."""

    def __init__(self, run: EvaluateRun, net: nn.Module, test: ImageSet, device: str) -> None:
        self.run = run
        self.test = test
        self.net = net.to(device)
        self.device = torch.device(device)
        self.ball = Ball(run.threat.norm, run.threat.eps)

    def evaluate(self, start: int, name: str, standing_S: np.ndarray) -> Outcome:
        """What `name` does to the images `standing_S` of the shard that begins with image `start`."""
        began = time.monotonic()
        with measuring(self.net):
            tensors = self._classify(standing_S) if name == CLEAN else self._attack(name, standing_S)
        tensors = {name: tensor.cpu() for name, tensor in tensors.items()}  # which also waits for a GPU
        seconds = time.monotonic() - began
        return Outcome(name, start, attacked_hash(standing_S), len(standing_S), seconds, tensors)

    def images(self, indices: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Pixels in [0, 1] (N, C, H, W) and labels (N,), on the device."""
        index = torch.from_numpy(indices)
        return self.test.pixels(index).to(self.device), self.test.labels_N[index].to(self.device)

    def batches(self, indices: np.ndarray) -> Iterator[np.ndarray]:
        """Portions of `indices` that are passed through the network together; they depend on nothing but these."""
        for begin in range(0, len(indices), self.run.batch_size):
            yield indices[begin : begin + self.run.batch_size]

    @torch.no_grad()
    def logits(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """Logits (N, K).

        Raises:
            UserError: the network gives something else, or numbers that are not finite.
        """
        logits = self.net(x_NCHW)
        classes = len(self.test.classes)
        if not isinstance(logits, torch.Tensor) or logits.shape != (len(x_NCHW), classes):
            what = str(tuple(logits.shape)) if isinstance(logits, torch.Tensor) else type(logits).__name__
            raise UserError.one("model", f"gives {what} for {len(x_NCHW)} images, not {classes} logits for each")
        if not bool(torch.isfinite(logits).all()):
            bad = int((~torch.isfinite(logits)).any(dim=1).sum())
            raise UserError.one("model", f"its logits are NaN or infinite for {bad} of {len(logits)} unchanged images")
        return logits

    def _classify(self, indices_N: np.ndarray) -> dict[str, torch.Tensor]:
        predictions, margins = [], []
        for batch in self.batches(indices_N):
            x, y = self.images(batch)
            logits = self.logits(x)
            predictions.append(logits.argmax(dim=1))
            margins.append(-margin(logits, y))
        labels_N = self.test.labels_N[torch.from_numpy(indices_N)]
        return {"labels_N": labels_N, "predictions_N": torch.cat(predictions), "margins_N": torch.cat(margins)}

    def _attack(self, name: str, standing_S: np.ndarray) -> dict[str, torch.Tensor]:
        found = [self._attack_batch(name, batch) for batch in self.batches(standing_S)]
        return {key: torch.cat([tensors[key] for tensors in found]) for key in found[0]}

    def _attack_batch(self, name: str, standing_S: np.ndarray) -> dict[str, torch.Tensor]:
        x, y = self.images(standing_S)
        key = ("evaluate", self.run.seed)
        fallen = attack_standing(self.net, x, y, name, self.ball, key, standing_S.tolist(), len(self.test.classes))
        x_adv, y_R = fallen.x_adv_RCHW, y[fallen.places_R]
        with torch.no_grad():
            logits = self.net(x_adv) if len(x_adv) else x.new_zeros(0, len(self.test.classes))
        return {
            "indices_R": torch.from_numpy(standing_S)[fallen.places_R.cpu()],
            "x_adv_RCHW": x_adv,
            "predictions_R": logits.argmax(dim=1),
            "margins_R": -margin(logits, y_R),
        }
