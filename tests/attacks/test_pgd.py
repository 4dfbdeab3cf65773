"""Properties every attack must have, and agreement with torchattacks."""

import pytest
import torch
import torchattacks
from hypothesis import given, settings
from hypothesis import strategies as st

from afa_dist.attacks import Ball, attack_mode, cross_entropy, kl_to_clean, margin, pgd, scaled_cross_entropy
from afa_dist.config import ModelConfig, TrainAttackConfig
from afa_dist.data.loader import Batch
from afa_dist.distributed import SlicedRandom
from afa_dist.models.build import DataShape, build_classifier
from afa_dist.training.step import find_adversarial


def small_net(norm="batch"):
    torch.manual_seed(0)
    return build_classifier(ModelConfig(width=8, norm=norm), DataShape(1, (0.3,), (0.4,), tuple("abc")))


@settings(max_examples=40, deadline=None)
@given(
    norm=st.sampled_from(["linf", "l2"]),
    eps=st.floats(0, 2),
    steps=st.integers(0, 4),
    step_size=st.floats(0, 64),
    seed=st.integers(0, 10**6),
    random_start=st.booleans(),
    border=st.booleans(),
)
def test_stays_in_the_ball_and_in_the_pixel_range(norm, eps, steps, step_size, seed, random_start, border):
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(5, 2, 3, 3, generator=g)
    if border:
        x = x.round()
    w = torch.randn(5, 2, 3, 3, generator=g)
    ball = Ball(norm, eps)
    start = ball.random_start(x, SlicedRandom("t", seed, start=0, count=5)) if random_start else None
    x_adv = pgd(lambda v: (v * w).flatten(1).sum(1), x, ball, steps=steps, step_size=step_size, start=start)
    assert (ball.distance(x_adv, x) <= eps + 1e-6).all()
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    if eps == 0:
        assert torch.equal(x_adv, x)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_finds_the_maximum_of_a_linear_function(norm):
    """Inside the pixel range the best point is known: eps along the sign, or along the gradient."""
    x = torch.full((3, 1, 4, 4), 0.5)
    w = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    x_adv = pgd(lambda v: (v * w).flatten(1).sum(1), x, Ball(norm, 0.1), steps=30, step_size=0.02)
    best = 0.1 * (w.sign() if norm == "linf" else w / w.flatten(1).norm(dim=1)[:, None, None, None])
    torch.testing.assert_close(x_adv - x, best, rtol=1e-4, atol=1e-5)


def test_l2_start_is_uniform_in_the_ball():
    """In d dimensions the share of points within r of the centre is (r/eps)^d."""
    x = torch.full((4096, 1, 1, 2), 0.5)
    start = Ball("l2", 0.4).random_start(x, SlicedRandom("t", 0, start=0, count=4096))
    inner = (Ball("l2", 0.4).distance(start, x) < 0.2).float().mean().item()
    assert inner == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_image_without_gradient_stays_where_it_is(norm):
    """Also with the largest step there is: a step of no length must not become 0 times infinity."""
    x = torch.rand(2, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    x_adv = pgd(lambda v: v[1].sum(), x, Ball(norm, 64.0 if norm == "l2" else 1.0), steps=2, step_size=64.0)
    assert torch.equal(x_adv[0], x[0]) and torch.isfinite(x_adv).all() and not torch.equal(x_adv[1], x[1])


@pytest.mark.parametrize("algorithm", ["fgsm-rs", "n-fgsm"])
def test_single_steps_are_their_formulas(algorithm):
    """On a linear objective, whose gradient has the sign of its weights: FGSM-RS is a step of 1.25 eps from a uniform start
    in the ball, brought back into it (2001.03994); N-FGSM a step of eps from noise of 2 eps, not brought back (2202.01181).
    """
    g = torch.Generator().manual_seed(0)
    x, w, eps = 0.5 + 0.1 * torch.rand(16, 1, 4, 4, generator=g), torch.randn(16, 1, 4, 4, generator=g), 0.1

    def noise(width):
        drawn = SlicedRandom("attack", 7, 3, start=0, count=16).uniform(1, 4, 4, low=-width, high=width)
        assert drawn.abs().max() > 0.9 * width
        return x + drawn

    config = TrainAttackConfig(eps=eps, algorithm=algorithm, steps=5, step_size=0.3, random_start=False)  # do not count
    x_adv = find_adversarial(lambda v: (v * w).flatten(1).sum(1), Batch(x, None, 0), config, eps=eps, seed=7, step=3)
    if algorithm == "fgsm-rs":
        want = x + (noise(eps) + 1.25 * eps * w.sign() - x).clamp(-eps, eps)
    else:
        want = noise(2 * eps) + eps * w.sign()
    torch.testing.assert_close(x_adv, want.clamp(0, 1))


@pytest.mark.parametrize("policy", ["eval", "batch", "train"])
def test_mode_and_gradients_are_restored_also_after_an_error(policy):
    net = small_net()
    net.train()
    net.encoder.backbone.bn1.eval()
    net.linear.weight.requires_grad_(False)
    before = [(m.training, getattr(m, "track_running_stats", None)) for m in net.modules()]
    flags = [p.requires_grad for p in net.parameters()]
    with pytest.raises(KeyError), attack_mode(net, policy):
        assert not any(p.requires_grad for p in net.parameters())
        raise KeyError
    assert [(m.training, getattr(m, "track_running_stats", None)) for m in net.modules()] == before
    assert [p.requires_grad for p in net.parameters()] == flags


@pytest.mark.parametrize("policy", ["eval", "batch", "train"])
def test_bn_policy_decides_whether_buffers_move(policy):
    net = small_net().train()
    x, y = torch.rand(16, 1, 8, 8), torch.zeros(16, dtype=torch.long)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with attack_mode(net, policy):
        outputs = net(x)
        pgd(lambda v: cross_entropy(net(v), y), x, Ball("linf", 0.1), steps=2, step_size=0.05)
    moved = [name for name, value in net.state_dict().items() if not torch.equal(value, before[name])]
    assert bool(moved) == (policy == "train")
    net.eval()
    assert torch.allclose(outputs, net(x), atol=1e-6) == (policy == "eval")
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize(
    "objective",
    [
        lambda net, x, y: lambda v: cross_entropy(net(v), y),
        lambda net, x, y: lambda v: margin(net(v), y),
        lambda net, x, y: lambda v: scaled_cross_entropy(net(v), y),
        lambda net, x, y: (lambda clean: lambda v: kl_to_clean(net(v), clean))(net(x).detach()),
    ],
    ids=["ce", "margin", "scaled", "kl"],
)
def test_raises_what_it_maximises(objective):
    net = small_net("group")
    x, y = torch.rand(16, 1, 8, 8), torch.arange(16) % 3
    with attack_mode(net):
        f = objective(net, x, y)
        start = Ball("linf", 0.1).random_start(x, SlicedRandom("t", 0, start=0, count=16))
        x_adv = pgd(f, x, Ball("linf", 0.1), steps=10, step_size=0.02, start=start)
        assert (f(x_adv) > f(x)).all()


def test_margin_and_kl_by_hand():
    logits = torch.tensor([[2.0, 5.0, 1.0], [4.0, 0.0, 3.0]])
    assert margin(logits, torch.tensor([1, 1])).tolist() == [-3.0, 4.0]
    clean = torch.tensor([[0.0, 1.0, 2.0]], dtype=torch.float64)
    adv = torch.tensor([[1.0, 0.0, -1.0]], dtype=torch.float64)
    p, q = clean.softmax(1), adv.softmax(1)
    # The clean prediction is the target: sum p log(p/q), which is not sum q log(q/p) here.
    torch.testing.assert_close(kl_to_clean(adv, clean), (p * (p / q).log()).sum(1))


@pytest.mark.parametrize(("norm", "random_start"), [("linf", False), ("linf", True), ("l2", False)])
def test_agrees_with_torchattacks(norm, random_start, trained, digits):
    """Equal settings, equal accuracy within a point. (L2 without random start: theirs draws from another law.)"""
    net, test = trained, digits.test
    x, y = test.images_NCHW.float() / 255, test.labels_N
    eps, alpha, steps = (0.1, 0.025, 10) if norm == "linf" else (0.8, 0.2, 10)
    theirs = {"linf": torchattacks.PGD, "l2": torchattacks.PGDL2}[norm]
    torch.manual_seed(0)
    x_theirs = theirs(net, eps=eps, alpha=alpha, steps=steps, random_start=random_start)(x, y)
    ball = Ball(norm, eps)
    with attack_mode(net):
        start = ball.random_start(x, SlicedRandom("t", 0, start=0, count=len(y))) if random_start else None
        x_ours = pgd(lambda v: cross_entropy(net(v), y), x, ball, steps=steps, step_size=alpha, start=start)
        clean_acc, our_acc, their_acc = ((net(v).argmax(1) == y).double().mean().item() for v in (x, x_ours, x_theirs))
    assert 0.1 < our_acc < clean_acc - 0.05  # else the comparison would be empty
    assert abs(our_acc - their_acc) <= 0.01
