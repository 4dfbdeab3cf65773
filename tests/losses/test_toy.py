"""The loss and its attack on a 2-D toy whose alignment is known: every value here has a closed form."""

import math

import pytest
import torch

from afa_dist.attacks import Ball, pgd
from afa_dist.losses import afa_loss

T = 0.5
N = 8
"""Keys of each of the two classes."""


def at(*degrees):
    """Points of the unit circle, (len, 2)."""
    angle = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    return torch.stack([angle.cos(), angle.sin()], dim=1)


POLES, POLE_LABELS = at(*[0.0] * N, *[180.0] * N), torch.tensor([0] * N + [1] * N)


def loss_at(degrees):
    """Loss of an anchor of class 0 that stands `degrees` away from its class; both classes are perfectly aligned."""
    return afa_loss(at(degrees), POLES, torch.tensor([0]), POLE_LABELS, temperature=T)


@pytest.mark.parametrize("degrees", [0, 30, 90, 150, 180])
def test_the_loss_of_a_known_angle(degrees):
    """Positives at similarity c = cos, negatives at -c: -log(e^(c/t) / (n e^(c/t) + n e^(-c/t))), which is this."""
    c = math.cos(math.radians(degrees))
    assert loss_at(degrees).item() == pytest.approx(math.log(N) + math.log1p(math.exp(-2 * c / T)), rel=1e-12)


def test_alignment_is_its_minimum_and_the_wrong_pole_its_maximum():
    values = torch.stack([loss_at(degrees) for degrees in range(0, 181, 5)])
    assert (values.diff() > 0).all()


def test_no_information_costs_log_of_the_keys():
    """The plateau ln(keys) of a run that learns nothing: all embeddings equal."""
    same = at(*[77.0] * (2 * N))
    value = afa_loss(at(77.0), same, torch.tensor([0]), POLE_LABELS, temperature=T)
    assert value.item() == pytest.approx(math.log(2 * N), rel=1e-12)


def test_descent_aligns_each_class_and_sets_the_classes_apart():
    """From random points of the circle to two opposite poles, where the loss is log(n) + log(1 + e^(-2/t)) but for the
    anchor itself, which is not its own key."""
    g = torch.Generator().manual_seed(0)
    raw = torch.randn(2 * N, 2, generator=g, dtype=torch.float64, requires_grad=True)
    labels = POLE_LABELS
    optimiser = torch.optim.SGD([raw], lr=2.0)
    for _ in range(2000):
        z = torch.nn.functional.normalize(raw, dim=1)
        loss = afa_loss(z, z, labels, labels, temperature=T, self_A=torch.arange(2 * N)) / (2 * N)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    similarity = (z @ z.T).detach()
    same = labels[:, None] == labels
    assert similarity[same].min() > 0.999
    assert similarity[~same].max() < -0.999
    exact = math.log((N - 1) + N * math.exp(-2 / T))
    assert loss.item() == pytest.approx(exact, abs=1e-4)


@pytest.mark.parametrize("eps", [0.05, 0.15])
def test_the_attack_turns_an_image_by_the_angle_of_its_ball(eps):
    """Images of two pixels, embedded by their direction from the centre (0.5, 0.5) at distance r: within an L2 ball of
    radius eps the direction turns by at most arcsin(eps / r), where the ray touches the ball."""
    r = 0.3
    x = 0.5 + r * at(90.0).reshape(1, 1, 1, 2)

    def embed(images):
        return torch.nn.functional.normalize(images.flatten(1) - 0.5, dim=1)

    def objective(images):
        return afa_loss(embed(images), POLES, torch.tensor([0]), POLE_LABELS, temperature=T)

    x_adv = pgd(objective, x, Ball("l2", eps), steps=400, step_size=eps / 20)
    turned = math.degrees(math.acos((embed(x_adv) @ at(90.0).T).item()))
    assert turned == pytest.approx(math.degrees(math.asin(eps / r)), rel=0.02)
    assert embed(x_adv)[0, 0] < 0  # away from its class, at 0 degrees, towards the other
    expected = loss_at(90 + math.degrees(math.asin(eps / r))).item()
    assert objective(x_adv).item() == pytest.approx(expected, rel=0.01)
