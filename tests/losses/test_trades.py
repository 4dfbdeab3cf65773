"""The TRADES loss is the authors' formula, value and gradient, in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from afa_dist.attacks import kl_to_clean
from afa_dist.losses import trades_loss


def logits(seed, n=7, classes=5):
    g = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(n, classes, generator=g, dtype=torch.float64)).requires_grad_()


LABELS = torch.tensor([0, 1, 2, 3, 4, 0, 1])


def as_published(clean, adv, labels, beta):
    """Formula of the authors' released loss: cross-entropy of the natural logits, plus beta / batch times the summed
    KLDivLoss of log-probabilities of the adversarial from probabilities of the natural prediction."""
    natural = nn.CrossEntropyLoss()(clean, labels)
    robust = (1.0 / len(labels)) * nn.KLDivLoss(reduction="sum")(F.log_softmax(adv, dim=1), F.softmax(clean, dim=1))
    return natural + beta * robust


@pytest.mark.parametrize("beta", [0.0, 1.0, 6.0])
def test_value_and_gradients_equal_the_published_formula(beta):
    clean, adv = logits(1), logits(2)
    ours = trades_loss(clean, adv, LABELS, beta=beta).mean()
    theirs = as_published(clean, adv, LABELS, beta)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    for mine, other in zip(torch.autograd.grad(ours, (clean, adv)), torch.autograd.grad(theirs, (clean, adv)), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-10)


def test_and_the_sum_written_out():
    clean, adv = logits(1), logits(2)
    p, q = clean.softmax(1), adv.softmax(1)
    expected = sum(
        -torch.log(p[i, y]) + 6.0 * sum(p[i, k] * (torch.log(p[i, k]) - torch.log(q[i, k])) for k in range(5))
        for i, y in enumerate(LABELS.tolist())
    ) / len(LABELS)
    torch.testing.assert_close(trades_loss(clean, adv, LABELS, beta=6.0).mean(), expected, rtol=1e-10, atol=1e-10)


def test_the_divergence_is_from_the_clean_to_the_adversarial_prediction():
    """KL(p_clean || p_adv): large where the adversarial prediction rules out what the clean one holds possible."""
    torch.manual_seed(0)
    sure, unsure = torch.tensor([[12.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    clean_unsure = kl_to_clean(sure, unsure)  # 0.5 log(0.5 / 1) + 0.5 log(0.5 / e^-12) = 6 - log 2
    assert clean_unsure.item() == pytest.approx(6 - torch.log(torch.tensor(2.0)).item(), rel=1e-4)
    clean_sure = kl_to_clean(unsure, sure)  # log(1 / 0.5)
    assert clean_sure.item() == pytest.approx(torch.log(torch.tensor(2.0)).item(), rel=1e-3)


def test_the_gradient_flows_through_both_predictions():
    clean, adv = logits(1), logits(2)
    kl = kl_to_clean(adv, clean).sum()
    assert all(g.abs().max() > 0.01 for g in torch.autograd.grad(kl, (clean, adv)))


def test_label_smoothing_concerns_the_cross_entropy_only():
    clean, adv = logits(1), logits(2)
    smooth = trades_loss(clean, adv, LABELS, beta=2.0, label_smoothing=0.1)
    target = 0.9 * F.one_hot(LABELS, 5).double() + 0.1 / 5
    expected = -(target * clean.log_softmax(1)).sum(1) + 2.0 * kl_to_clean(adv, clean)
    torch.testing.assert_close(smooth, expected, rtol=1e-10, atol=1e-10)
