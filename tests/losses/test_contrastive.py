"""The streamed AFA loss against loops that can be checked by eye, a dense matrix, and pytorch-metric-learning."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.losses import SupConLoss
from pytorch_metric_learning.reducers import MeanReducer
from torch.utils._python_dispatch import TorchDispatchMode

from afa_dist.losses import NOBODY, afa_loss
from tests.losses.naive import dense_afa_loss, looped_afa_loss


def case(seed, anchors, keys, classes, dim=6, duplicates=False):
    """Embeddings in float64, labels, and keys to leave out; with duplicates most vectors are equal to others."""
    g = torch.Generator().manual_seed(seed)
    z = F.normalize(torch.randn(anchors, dim, generator=g, dtype=torch.float64), dim=1)
    k = F.normalize(torch.randn(keys, dim, generator=g, dtype=torch.float64), dim=1)
    if duplicates:
        k = k[torch.randint(0, min(keys, 2), (keys,), generator=g)]
        z = k[torch.randint(0, keys, (anchors,), generator=g)]
    y = torch.randint(0, classes, (anchors,), generator=g)
    yk = torch.randint(0, classes, (keys,), generator=g)
    self_A = torch.randint(NOBODY, keys, (anchors,), generator=g)
    own_A = torch.randint(NOBODY, keys, (anchors,), generator=g)
    return z, k, y, yk, {"self_A": self_A, "own_copy_A": own_A}


def value_and_gradients(loss, z, k):
    z, k = z.clone().requires_grad_(), k.clone().requires_grad_()
    value = loss(z, k)
    if not value.requires_grad:  # loops without a single positive
        return value, torch.zeros_like(z), torch.zeros_like(k)
    return value.detach(), *torch.autograd.grad(3.0 * value, (z, k))  # the caller's scale is not 1


OPTIONS = (
    pytest.mark.parametrize("denominator", ["all", "negatives"]),
    pytest.mark.parametrize("own_copy", ["positive", "excluded"]),
)


@OPTIONS[0]
@OPTIONS[1]
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    anchors=st.integers(1, 7),
    keys=st.integers(1, 9),
    classes=st.integers(1, 5),
    temperature=st.sampled_from([0.01, 0.05, 0.1, 0.5, 1.0]),
    duplicates=st.booleans(),
    rows=st.sampled_from([None, 1, 3]),
)
def test_equals_the_naive_loops_in_value_and_gradients(
    denominator, own_copy, seed, anchors, keys, classes, temperature, duplicates, rows
):
    z, k, y, yk, left_out = case(seed, anchors, keys, classes, duplicates=duplicates)
    options = {"temperature": temperature, "own_copy": own_copy, "denominator": denominator, **left_out}
    got = value_and_gradients(lambda z, k: afa_loss(z, k, y, yk, rows=rows, **options), z, k)
    want = value_and_gradients(lambda z, k: looped_afa_loss(z, k, y, yk, **options).sum(), z, k)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@OPTIONS[0]
@OPTIONS[1]
@pytest.mark.parametrize("temperature", [0.01, 0.1, 1.0])
def test_many_anchors_and_keys_in_both_precisions(denominator, own_copy, temperature):
    """Against the dense matrix in float64: 1e-10 in float64, 1e-5 of the largest entry in float32."""
    z, k, y, yk, left_out = case(3, 300, 700, 12, dim=32)
    options = {"temperature": temperature, "own_copy": own_copy, "denominator": denominator, **left_out}
    exact = value_and_gradients(lambda z, k: dense_afa_loss(z, k, y, yk, **options).sum(), z, k)
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        got = value_and_gradients(lambda z, k: afa_loss(z, k, y, yk, rows=77, **options), z.to(dtype), k.to(dtype))
        for a, b in zip(got, exact, strict=True):
            assert a.dtype == dtype
            assert (a.double() - b).abs().max() <= tolerance * b.abs().max()


def test_no_matrix_of_anchors_by_keys_is_ever_made():
    """Every tensor that is made has at most `rows` rows of similarities, or the size of the embeddings."""
    anchors, keys, rows, largest = 400, 3000, 8, [0]

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest[0] = max(largest[0], out.untyped_storage().nbytes() // 8)
            return out

    z, k, y, yk, left_out = case(0, anchors, keys, 4, dim=8)
    for denominator in ("all", "negatives"):
        with Watch():
            value_and_gradients(
                lambda z, k, d=denominator: afa_loss(z, k, y, yk, temperature=0.1, denominator=d, rows=rows, **left_out),
                z,
                k,
            )
    assert rows * keys <= largest[0] <= 8 * keys + rows


@OPTIONS[0]
@OPTIONS[1]
def test_several_threads_round_alike_in_every_call(denominator, own_copy):
    """What threads add up as they come would differ in the last digit, and training would not be repeatable."""
    torch.set_num_threads(2)
    z, k, y, yk, left_out = case(2, 256, 512, 10, dim=128)
    z, k = z.float(), k.float()
    options = {"temperature": 0.1, "denominator": denominator, "own_copy": own_copy, **left_out}
    first, *others = (value_and_gradients(lambda z, k: afa_loss(z, k, y, yk, **options), z, k) for _ in range(20))
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("wanted", [(True, False), (False, True)])
def test_only_the_gradients_that_are_asked_for(wanted):
    z, k, y, yk, left_out = case(1, 20, 30, 3)
    both = value_and_gradients(lambda z, k: afa_loss(z, k, y, yk, temperature=0.1, **left_out), z, k)
    z, k = z.requires_grad_(wanted[0]), k.requires_grad_(wanted[1])
    loss = afa_loss(z, k, y, yk, temperature=0.1, **left_out)
    (gradient,) = torch.autograd.grad(3.0 * loss, [tensor for tensor in (z, k) if tensor.requires_grad])
    torch.testing.assert_close(gradient, both[1] if wanted[0] else both[2], rtol=0, atol=0)
    with torch.no_grad():
        assert not afa_loss(z, k, y, yk, temperature=0.1, **left_out).requires_grad


def test_half_precision_is_computed_in_full():
    z, k, y, yk, _ = case(1, 20, 30, 3, dim=16)
    z, k = z.bfloat16(), k.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = value_and_gradients(lambda z, k: afa_loss(z, k, y, yk, temperature=0.1), z, k)
    full = value_and_gradients(lambda z, k: afa_loss(z, k, y, yk, temperature=0.1), z.float(), k.float())
    assert torch.equal(half[0], full[0])
    assert all(torch.equal(a, b.bfloat16()) for a, b in zip(half[1:], full[1:], strict=True))


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
        ours = afa_loss(unit, unit, y, y, temperature=t, self_A=index) / 40
        theirs = SupConLoss(temperature=t, reducer=MeanReducer())(b, y)
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
        ours.backward()
        theirs.backward()
        # Theirs adds a tiny constant inside the logarithm.
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-8, atol=1e-10)


def test_anchor_without_positives_counts_as_zero():
    z, k, *_ = case(0, 3, 4, 1)
    y, yk = torch.tensor([0, 5, 0]), torch.zeros(4, dtype=torch.long)
    z.requires_grad_()
    with_it, without = (afa_loss(z[i], k, y[i], yk, temperature=0.1) for i in (slice(3), [0, 2]))
    torch.testing.assert_close(with_it, without, rtol=1e-15, atol=0)
    (gradient,) = torch.autograd.grad(with_it, z)
    assert (gradient[1] == 0).all() and (gradient[[0, 2]] != 0).any()


def test_no_hidden_temperature_factor():
    """One positive, one negative at right angles: log(1 + exp(-1/t)), not t/0.07 times that (SupContrast's factor)."""
    z = torch.tensor([[1.0, 0.0]])
    k = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    loss = afa_loss(z, k, torch.tensor([0]), torch.tensor([0, 1]), temperature=0.5)
    assert loss.item() == pytest.approx(math.log1p(math.exp(-2.0)), rel=1e-6)
