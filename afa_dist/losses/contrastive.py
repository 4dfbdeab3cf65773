"""The supervised contrastive loss of AFA, per anchor.

Legend: A anchors, K keys, D dimensions.
"""

from __future__ import annotations

from typing import Literal

import torch

Denominator = Literal["all", "negatives"]
OwnCopy = Literal["positive", "excluded"]

NOBODY = -1
"""Index that names no key: the anchor has no key to leave out, or no other view among the keys."""


def afa_loss(
    anchors_AD: torch.Tensor,
    keys_KD: torch.Tensor,
    labels_A: torch.Tensor,
    labels_K: torch.Tensor,
    *,
    temperature: float,
    self_A: torch.Tensor | None = None,
    own_copy_A: torch.Tensor | None = None,
    own_copy: OwnCopy = "positive",
    denominator: Denominator = "all",
) -> torch.Tensor:
    """Loss of each anchor i over its same-class keys P(i), shape (A,).

    denominator "all":        -1/|P(i)| sum_p log( exp(s_ip) / sum_a exp(s_ia) ), a over all keys but the anchor itself
    denominator "negatives":  the sum holds the keys of other classes plus this one positive p (as in SupRobCon)

    with s = anchors @ keys.T / temperature (AFA, arXiv 2402.12187, read as a min-max version of SupCon, arXiv
    2004.11362, eq. 2; no base-temperature factor). Rows are taken as they are: normalise them first. An anchor
    without positives gives 0, never NaN. The gradient through `keys_KD` is kept.

    Args:
        anchors_AD: anchor embeddings, unit length.
        keys_KD: key embeddings, unit length.
        labels_A, labels_K: class of each row.
        temperature: > 0.
        self_A: for each anchor the index of the key that is the anchor itself, or NOBODY; left out entirely.
        own_copy_A: for each anchor the index of the key that is another view of the same image, or NOBODY.
        own_copy: whether that other view is a positive or left out entirely.
        denominator: which keys stand under the fraction.
    """
    with torch.autocast(anchors_AD.device.type, enabled=False):  # called inside the attack, whose passes may be bf16
        similarity_AK = anchors_AD @ keys_KD.T / temperature
    valid_AK = torch.ones_like(similarity_AK, dtype=torch.bool)
    left_out = [self_A, own_copy_A if own_copy == "excluded" else None]
    for index_A in left_out:
        if index_A is not None:
            columns_K = torch.arange(keys_KD.shape[0], device=keys_KD.device)
            valid_AK &= columns_K != index_A[:, None]
    same_AK = labels_A[:, None] == labels_K
    positive_AK = same_AK & valid_AK
    count_A = positive_AK.sum(dim=1)

    # A finite floor instead of -inf: a row with nothing to sum would turn into NaN in the backward pass.
    floor = torch.finfo(similarity_AK.dtype).min / 4
    if denominator == "all":
        log_sum_A1 = similarity_AK.masked_fill(~valid_AK, floor).logsumexp(dim=1, keepdim=True)
        log_ratio_AK = similarity_AK - log_sum_A1
    else:
        negatives_AK = valid_AK & ~same_AK
        log_sum_A1 = similarity_AK.masked_fill(~negatives_AK, floor).logsumexp(dim=1, keepdim=True)
        log_ratio_AK = similarity_AK - torch.logaddexp(similarity_AK, log_sum_A1)
    log_ratio_AK = torch.where(positive_AK, log_ratio_AK, 0.0)
    return -log_ratio_AK.sum(dim=1) / count_A.clamp(min=1)
