"""The AFA loss written so that it can be checked by eye: as loops, and as one dense matrix. Per anchor, shape (A,).

Legend: A anchors, K keys, D dimensions.
"""

import torch


def looped_afa_loss(z, k, y, yk, *, temperature, self_A, own_copy_A, own_copy="positive", denominator="all"):
    """-1/|P| sum_p log(exp(s_p) / sum_a exp(s_a)), written as three loops."""
    losses = []
    for i in range(len(z)):
        left_out = {self_A[i].item()} | ({own_copy_A[i].item()} if own_copy == "excluded" else set())
        keys = [a for a in range(len(k)) if a not in left_out]
        positives = [a for a in keys if yk[a] == y[i]]
        if not positives:
            losses.append(z.new_zeros(()))
            continue
        total = z.new_zeros(())
        for p in positives:
            under = z.new_zeros(())
            for a in keys:
                if denominator == "all" or a == p or yk[a] != y[i]:
                    under = under + torch.exp((z[i] * k[a]).sum() / temperature)
            total = total + torch.log(torch.exp((z[i] * k[p]).sum() / temperature) / under)
        losses.append(-total / len(positives))
    return torch.stack(losses)


def dense_afa_loss(
    z_AD, k_KD, y_A, y_K, *, temperature, self_A=None, own_copy_A=None, own_copy="positive", denominator="all"
):
    """The same with the whole matrix of similarities, differentiated by torch."""
    similarity_AK = z_AD @ k_KD.T / temperature
    valid_AK = torch.ones_like(similarity_AK, dtype=torch.bool)
    for index_A in (self_A, own_copy_A if own_copy == "excluded" else None):
        if index_A is not None:
            valid_AK &= torch.arange(len(k_KD)) != index_A[:, None]
    same_AK = y_A[:, None] == y_K
    positive_AK = same_AK & valid_AK
    under_AK = valid_AK if denominator == "all" else valid_AK & ~same_AK
    log_sum_A1 = similarity_AK.masked_fill(~under_AK, -1e30).logsumexp(1, True)
    if denominator == "all":
        log_ratio_AK = similarity_AK - log_sum_A1
    else:
        log_ratio_AK = similarity_AK - torch.logaddexp(similarity_AK, log_sum_A1)
    return -torch.where(positive_AK, log_ratio_AK, 0.0).sum(1) / positive_AK.sum(1).clamp(min=1)
