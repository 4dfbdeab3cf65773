"""The AFA loss against loops that can be checked by eye, and against pytorch-metric-learning."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.losses import SupConLoss
from pytorch_metric_learning.reducers import MeanReducer

from afa_dist.losses import NOBODY, afa_loss


def naive(z, k, y, yk, t, self_A, own_A, own_copy, denominator):
    """-1/|P| sum_p log(exp(s_p) / sum_a exp(s_a)), written as three loops."""
    losses = []
    for i in range(len(z)):
        left_out = {self_A[i].item()} | ({own_A[i].item()} if own_copy == "excluded" else set())
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
                    under = under + torch.exp((z[i] * k[a]).sum() / t)
            total = total + torch.log(torch.exp((z[i] * k[p]).sum() / t) / under)
        losses.append(-total / len(positives))
    return torch.stack(losses)


def case(seed, anchors, keys, classes, dim=6):
    g = torch.Generator().manual_seed(seed)
    z = F.normalize(torch.randn(anchors, dim, generator=g, dtype=torch.float64), dim=1).requires_grad_()
    k = F.normalize(torch.randn(keys, dim, generator=g, dtype=torch.float64), dim=1).requires_grad_()
    y = torch.randint(0, classes, (anchors,), generator=g)
    yk = torch.randint(0, classes, (keys,), generator=g)
    self_A = torch.randint(NOBODY, keys, (anchors,), generator=g)
    own_A = torch.randint(NOBODY, keys, (anchors,), generator=g)
    return z, k, y, yk, self_A, own_A


@pytest.mark.parametrize("denominator", ["all", "negatives"])
@pytest.mark.parametrize("own_copy", ["positive", "excluded"])
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    anchors=st.integers(1, 7),
    keys=st.integers(1, 9),
    classes=st.integers(1, 5),
    t=st.sampled_from([0.05, 0.1, 0.5, 1.0]),
)
def test_equals_the_naive_loops_in_value_and_gradient(denominator, own_copy, seed, anchors, keys, classes, t):
    z, k, y, yk, self_A, own_A = case(seed, anchors, keys, classes)
    got = afa_loss(z, k, y, yk, temperature=t, self_A=self_A, own_copy_A=own_A, own_copy=own_copy, denominator=denominator)
    want = naive(z, k, y, yk, t, self_A, own_A, own_copy, denominator)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
    weights = torch.linspace(0.5, 1.5, anchors, dtype=torch.float64)  # unequal, so that no row hides another
    got_grads = torch.autograd.grad((got * weights).sum(), (z, k))
    if want.requires_grad:
        want_grads = torch.autograd.grad((want * weights).sum(), (z, k), allow_unused=True)
        for a, b in zip(got_grads, want_grads, strict=True):
            torch.testing.assert_close(a, b if b is not None else torch.zeros_like(a), rtol=1e-10, atol=1e-10)
    assert all(torch.isfinite(g).all() for g in got_grads)


def test_equals_pytorch_metric_learning_with_symmetric_keys():
    """Anchors compared with themselves: SupCon. Its default reducer drops anchors without positives; the mean keeps
    them, as we do."""
    g = torch.Generator().manual_seed(1)
    z = torch.randn(40, 16, generator=g, dtype=torch.float64)
    y = torch.cat([torch.randint(0, 6, (39,), generator=g), torch.tensor([99])])  # 99 has no positive
    index = torch.arange(40)
    for t in (0.07, 0.3):
        a, b = z.clone().requires_grad_(), z.clone().requires_grad_()
        unit = F.normalize(a, dim=1)  # theirs normalises by itself
        ours = afa_loss(unit, unit, y, y, temperature=t, self_A=index).mean()
        theirs = SupConLoss(temperature=t, reducer=MeanReducer())(b, y)
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
        ours.backward()
        theirs.backward()
        # Theirs adds a tiny constant inside the logarithm.
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-8, atol=1e-10)


def test_anchor_without_positives_counts_as_zero():
    z, k, *_ = case(0, 3, 4, 1)
    y, yk = torch.tensor([0, 5, 0]), torch.zeros(4, dtype=torch.long)
    loss = afa_loss(z, k, y, yk, temperature=0.1)
    assert loss[1] == 0
    assert (loss[[0, 2]] > 0).all()


def test_no_hidden_temperature_factor():
    """One positive, one negative at right angles: log(1 + exp(-1/t)), not t/0.07 times that (SupContrast's factor)."""
    z = torch.tensor([[1.0, 0.0]])
    k = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    loss = afa_loss(z, k, torch.tensor([0]), torch.tensor([0, 1]), temperature=0.5)
    assert loss.item() == pytest.approx(math.log1p(math.exp(-2.0)), rel=1e-6)


def test_float32_is_stable_at_a_low_temperature():
    z, k, y, yk, self_A, _ = case(3, 32, 64, 4)
    exact = afa_loss(z, k, y, yk, temperature=0.01, self_A=self_A)
    single = afa_loss(z.float(), k.float(), y, yk, temperature=0.01, self_A=self_A)
    torch.testing.assert_close(single.double(), exact, rtol=1e-5, atol=1e-4)
