"""The AFA loss and its gradients, some rows of the similarities at a time.

With s_ia = z_i.k_a / t, and P(i) the n_i keys of the class of anchor i that it does not leave out:

- **Denominator "all".** loss_i = lse_i - mean over P(i) of s_ip. The mean needs only the sum of the keys of each class,
  and so do its gradients; the log-sum-exp's are a softmax times the keys, and its transpose times the anchors.
- **Denominator "negatives".** loss_i = mean over P(i) of softplus(L_i - s_ip), with L_i the log-sum-exp over the keys of
  other classes. It is no sum of a term in the positives and one in the negatives, so class sums do not help: it is
  computed entry by entry, though on a few rows at a time as well, with several times the scratch memory.

Both go over the anchors once, in blocks of whole rows, and make three matrix products of it: similarities, gradient of
the anchors, gradient of the keys (two where the keys need none, as in an attack against clean keys). A block whose scratch
fits the cache spares the passes over its entries the way to main memory.

Legend: A anchors, K keys, D dimensions, X keys that an anchor leaves out, C classes, R anchors of a block.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

NOBODY = -1
"""Index that names no key: the anchor has no key to leave out, or no other view among the keys."""

SCRATCH_BYTES = {"cpu": 8 << 20, "cuda": 256 << 20}
"""Memory of a block's similarities: about the cache of a few CPU cores; on a GPU enough rows to fill it."""

MIN_ROWS = 64
"""Fewer anchors at a time make matrix products slow, so that very many keys rather take more scratch memory."""

EXACT = 40.0
"""Where softplus(x) may be taken as x: exp(-40) lies below the rounding of float64."""


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Who is compared with whom, and how sharply.

    labels_A, labels_K: classes, 0 <= label < classes. left_out_AX: indices of keys that an anchor is not compared with,
    or NOBODY; no index twice in a row.
    """

    labels_A: torch.Tensor
    labels_K: torch.Tensor
    left_out_AX: torch.Tensor
    temperature: float
    classes: int

    def same_class_AX(self) -> torch.Tensor:
        """Which of the keys left out are of their anchor's class."""
        classes_AX = self.labels_K[self.left_out_AX.clamp(min=0)]
        return (self.left_out_AX != NOBODY) & (classes_AX == self.labels_A[:, None])

    def positives_A(self) -> torch.Tensor:
        """n_i, the number of positives of each anchor."""
        counts_C = _add_rows(torch.ones_like(self.labels_K), self.labels_K, self.classes)
        return counts_C[self.labels_A] - self.same_class_AX().sum(dim=1)

    def left_out_of(self, block: slice) -> list[torch.Tensor]:
        return list(self.left_out_AX[block].unbind(dim=1))


class StreamedLoss(torch.autograd.Function):
    """Sum of the losses of all anchors, with its gradients made on the way; `afa_dist.losses.afa_loss` says what it is."""

    @staticmethod
    def forward(
        ctx: Any,
        anchors_AD: torch.Tensor,
        keys_KD: torch.Tensor,
        pairs: Pairs,
        denominator: str,
        rows: int | None,
        differentiate: bool,
    ) -> torch.Tensor:
        dtype = torch.promote_types(torch.promote_types(anchors_AD.dtype, keys_KD.dtype), torch.float32)
        with torch.autocast(anchors_AD.device.type, enabled=False):
            work = _Work(
                anchors_AD.to(dtype), keys_KD.to(dtype), pairs, rows, [g and differentiate for g in ctx.needs_input_grad]
            )
            loss = work.against_all() if denominator == "all" else work.against_negatives()
        ctx.gradients = work.anchor_gradient_AD, work.key_gradient_KD
        ctx.dtypes = anchors_AD.dtype, keys_KD.dtype
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> Any:
        (scale,) = grad_outputs
        gradients = [
            None if gradient is None else (gradient * scale).to(dtype)
            for gradient, dtype in zip(ctx.gradients, ctx.dtypes, strict=True)
        ]
        return *gradients, None, None, None, None


class _Work:
    """One evaluation of the loss: its inputs, the gradients that are asked for, and the scratch memory of a block."""

    def __init__(
        self, anchors_AD: torch.Tensor, keys_KD: torch.Tensor, pairs: Pairs, rows: int | None, wanted: list[bool]
    ) -> None:
        self.keys_KD = keys_KD
        self.pairs = pairs
        self.sharp_AD = anchors_AD / pairs.temperature
        self.anchor_gradient_AD = torch.zeros_like(anchors_AD) if wanted[0] else None
        self.key_gradient_KD = torch.zeros_like(keys_KD) if wanted[1] else None
        count = pairs.positives_A()
        self.share_A1 = torch.where(count > 0, 1.0 / count.clamp(min=1).to(anchors_AD.dtype), 0.0)[:, None]
        """1 / n_i, or 0 where there are no positives: the weight of each positive of an anchor."""
        rows = min(rows or _rows(keys_KD), len(anchors_AD))
        self.blocks = [slice(start, start + rows) for start in range(0, len(anchors_AD), rows)]
        self.scratch_RK = keys_KD.new_empty((rows, len(keys_KD)))

    def against_all(self) -> torch.Tensor:
        has_positives_A1 = (self.share_A1 > 0).to(self.share_A1.dtype)
        loss = self.keys_KD.new_zeros(())
        for block in self.blocks:
            similar_RK = self._similarities(block)
            top_R1 = similar_RK.amax(dim=1, keepdim=True)
            total_R1 = similar_RK.sub_(top_R1).exp_().sum(dim=1, keepdim=True)
            loss += ((top_R1 + total_R1.log()) * has_positives_A1[block]).sum()
            self._add_gradients(block, similar_RK, has_positives_A1[block] / total_R1)
        return loss - self._similarity_to_positives()

    def _similarity_to_positives(self) -> torch.Tensor:
        """Sum over the anchors of the mean of s_ip over P(i), taken off the gradients as well."""
        pairs, keys_KD = self.pairs, self.keys_KD
        share_A1, pull_AD = self.share_A1, self.sharp_AD * self.share_A1
        sums_AD = _add_rows(keys_KD, pairs.labels_K, pairs.classes)[pairs.labels_A]
        if self.key_gradient_KD is not None:
            self.key_gradient_KD.sub_(_add_rows(pull_AD, pairs.labels_A, pairs.classes)[pairs.labels_K])
        same_AX = pairs.same_class_AX().to(keys_KD.dtype)
        for index_A, same_A in zip(pairs.left_out_AX.clamp(min=0).unbind(1), same_AX.unbind(1), strict=True):
            sums_AD -= keys_KD[index_A] * same_A[:, None]
            if self.key_gradient_KD is not None:
                _add_at(self.key_gradient_KD, index_A, pull_AD * same_A[:, None])
        if self.anchor_gradient_AD is not None:
            self.anchor_gradient_AD.sub_(sums_AD * (share_A1 / pairs.temperature))
        return (pull_AD * sums_AD).sum()

    def against_negatives(self) -> torch.Tensor:
        loss = self.keys_KD.new_zeros(())
        for block in self.blocks:
            similar_RK = self._similarities(block)
            same_RK = self.pairs.labels_A[block, None] == self.pairs.labels_K
            floor = _floor(similar_RK)
            negative_RK = similar_RK.masked_fill(same_RK, floor)
            top_R1 = negative_RK.amax(dim=1, keepdim=True)
            total_R1 = negative_RK.sub_(top_R1).exp_().sum(dim=1, keepdim=True)
            # Keys left out lie at the floor, where softplus would not be 0: they are no positives.
            positive_RK = same_RK & (similar_RK > floor)
            above_RK = torch.where(positive_RK, (top_R1 + total_R1.log()) - similar_RK, -torch.inf)
            share_R1 = self.share_A1[block]
            loss += (F.softplus(above_RK, threshold=EXACT) * share_R1).sum()
            pull_RK = above_RK.sigmoid_()
            weights_RK = negative_RK.mul_(pull_RK.sum(dim=1, keepdim=True) / total_R1).sub_(pull_RK)
            self._add_gradients(block, weights_RK, share_R1)
        return loss

    def _similarities(self, block: slice) -> torch.Tensor:
        """s of a block's anchors with all keys, in the scratch memory; left out ones have a value like -inf, but finite.

        -inf itself would give NaN in a row that has nothing else.
        """
        sharp_RD = self.sharp_AD[block]
        similar_RK = torch.mm(sharp_RD, self.keys_KD.T, out=self.scratch_RK[: len(sharp_RD)])
        for index_R in self.pairs.left_out_of(block):
            index_R1 = index_R.clamp(min=0)[:, None]
            kept_R1 = similar_RK.gather(1, index_R1)
            similar_RK.scatter_(1, index_R1, torch.where(index_R[:, None] == NOBODY, kept_R1, _floor(similar_RK)))
        return similar_RK

    def _add_gradients(self, block: slice, weights_RK: torch.Tensor, scale_R1: torch.Tensor) -> None:
        """Add what d loss / d s = scale * weights brings to the gradients of a block's anchors and of all keys."""
        if self.anchor_gradient_AD is not None:
            torch.mm(weights_RK, self.keys_KD, out=self.anchor_gradient_AD[block]).mul_(scale_R1 / self.pairs.temperature)
        if self.key_gradient_KD is not None:
            self.key_gradient_KD.addmm_(weights_RK.T, self.sharp_AD[block] * scale_R1)


def _rows(keys_KD: torch.Tensor) -> int:
    """How many anchors to compare with the keys at a time."""
    scratch = SCRATCH_BYTES.get(keys_KD.device.type, SCRATCH_BYTES["cpu"])
    return max(MIN_ROWS, scratch // max(1, len(keys_KD) * keys_KD.element_size()))


def _add_rows(rows: torch.Tensor, labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Sum of the rows of each class, (C, ...)."""
    return _add_at(rows.new_zeros((classes, *rows.shape[1:])), labels, rows)


def _add_at(sums: torch.Tensor, index: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Add each of `rows` to the row of `sums` that `index` names, in place and in the same order in every run.

    torch has no one way to do so: `index_put_` adds by several threads as they come on a CPU, `index_add_` on a GPU.
    """
    if sums.device.type == "cpu":
        return sums.index_add_(0, index, rows)
    return sums.index_put_((index,), rows, accumulate=True)


def _floor(values: torch.Tensor) -> float:
    return torch.finfo(values.dtype).min / 4
