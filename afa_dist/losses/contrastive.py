"""The supervised contrastive loss of AFA.

Legend: A anchors, K keys, D dimensions, X keys that an anchor leaves out.
"""

from __future__ import annotations

from typing import Literal

import torch

from afa_dist.losses.streaming import NOBODY, Pairs, StreamedLoss

Denominator = Literal["all", "negatives"]
OwnCopy = Literal["positive", "excluded"]


def afa_loss(
    anchors_AD: torch.Tensor,
    keys_KD: torch.Tensor,
    labels_A: torch.Tensor,
    labels_K: torch.Tensor,
    *,
    temperature: float,
    classes: int | None = None,
    self_A: torch.Tensor | None = None,
    own_copy_A: torch.Tensor | None = None,
    own_copy: OwnCopy = "positive",
    denominator: Denominator = "all",
    rows: int | None = None,
) -> torch.Tensor:
    """Sum over the anchors i of their losses against the keys P(i) of their class, shape ():

    denominator "all":        -1/|P(i)| sum_p log( exp(s_ip) / sum_a exp(s_ia) ), a over all keys but the anchor itself
    denominator "negatives":  the sum holds the keys of other classes plus this one positive p (as in SupRobCon)

    with s = anchors @ keys.T / temperature (AFA, arXiv 2402.12187, read as a min-max version of SupCon, arXiv
    2004.11362, eq. 2; no base-temperature factor). Embeddings are taken as they are: normalise them first. An anchor
    without positives gives 0, never NaN. Its gradients reach anchors and keys; second derivatives are not there.

    The A x K similarities are never held, only a few rows at a time, and the gradients are made in the same pass
    (`afa_dist.losses.streaming`): that is why the result is the sum, whose gradient the caller can only scale. Computed
    in float32 at least, whatever autocast says.

    Args:
        anchors_AD: anchor embeddings, unit length.
        keys_KD: key embeddings, unit length.
        labels_A, labels_K: class of each row, from 0.
        temperature: > 0.
        classes: number of classes; None looks for the highest label, which on a GPU makes the host wait.
        self_A: for each anchor the index of the key that is the anchor itself, or NOBODY; left out entirely.
        own_copy_A: for each anchor the index of the key that is another view of the same image, or NOBODY.
        own_copy: whether that other view is a positive or left out entirely.
        denominator: which keys stand under the fraction.
        rows: anchors compared at a time; None takes as many as fit the scratch memory of the device.
    """
    if classes is None:
        classes = int(torch.cat([labels_A, labels_K]).max()) + 1
    pairs = Pairs(
        labels_A=labels_A,
        labels_K=labels_K,
        left_out_AX=_left_out(self_A, own_copy_A if own_copy == "excluded" else None, labels_A),
        temperature=temperature,
        classes=classes,
    )
    loss: torch.Tensor = StreamedLoss.apply(anchors_AD, keys_KD, pairs, denominator, rows, torch.is_grad_enabled())
    return loss


def _left_out(self_A: torch.Tensor | None, copy_A: torch.Tensor | None, labels_A: torch.Tensor) -> torch.Tensor:
    """The keys each anchor leaves out, (A, 0 to 2), each named once."""
    if self_A is not None and copy_A is not None:
        copy_A = torch.where(copy_A == self_A, NOBODY, copy_A)
    columns = [index_A for index_A in (self_A, copy_A) if index_A is not None]
    return torch.stack(columns, dim=1) if columns else labels_A.new_empty((len(labels_A), 0))
