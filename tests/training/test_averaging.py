"""The average of the weights is what its formula says, and shares nothing with the network."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from afa_dist.config import ModelConfig
from afa_dist.models.build import DataShape, build_classifier
from afa_dist.training.averaging import WeightAverage, recompute_statistics, restored

SHAPE = DataShape(1, (0.3,), (0.4,), tuple("abc"))


@given(st.floats(0.0, 0.999), st.lists(st.floats(-10, 10), min_size=2, max_size=30))
def test_the_average_is_the_closed_form(decay, history):
    parameter = nn.Parameter(torch.tensor(history[0], dtype=torch.float64))
    average = WeightAverage([("w", parameter)], decay)
    for step, value in enumerate(history[1:]):
        with torch.no_grad():
            parameter.fill_(value)
        average.update(step)
    keep = [min(decay, (1 + t) / (10 + t)) for t in range(len(history) - 1)]
    # w_0 * prod(d) + sum over t of (1 - d_t) * w_(t+1) * product of the later d
    expected = history[0]
    for d in keep:
        expected *= d
    for t, value in enumerate(history[1:]):
        share = 1 - keep[t]
        for later in keep[t + 1 :]:
            share *= later
        expected += share * value
    assert average.weights["w"].item() == pytest.approx(expected, abs=1e-9)


def network(norm="batch"):
    torch.manual_seed(0)
    return build_classifier(ModelConfig(width=8, norm=norm), SHAPE)


def test_nothing_of_the_network_is_shared_or_left_changed():
    net = network()
    average = WeightAverage(list(net.named_parameters()), 0.5)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(1.0)
    moved = {name: value.clone() for name, value in net.state_dict().items()}
    with average.applied(net):
        for name, parameter in net.named_parameters():
            assert torch.equal(parameter, before[name])
        inside = net.state_dict()
        assert torch.equal(inside["encoder.backbone.bn1.running_mean"], moved["encoder.backbone.bn1.running_mean"])
        net.train()
        net(torch.rand(8, 1, 8, 8))  # moves the statistics
    for name, value in net.state_dict().items():
        assert torch.equal(value, moved[name]), name


def test_restored_even_after_an_error():
    net = nn.Linear(2, 2)
    before = net.weight.detach().clone()
    with pytest.raises(RuntimeError), restored(net):
        net.weight.data.zero_()
        raise RuntimeError
    assert torch.equal(net.weight, before)


def test_recomputed_statistics_are_those_of_the_images():
    net = network().double()
    images = [torch.rand(16, 1, 8, 8, dtype=torch.float64) for _ in range(3)]
    first = net.encoder.backbone.conv1
    net.train()
    recompute_statistics(net, iter(images), net)
    outputs = [first(net.encoder.normalise(x)) for x in images]
    bn = net.encoder.backbone.bn1
    torch.testing.assert_close(bn.running_mean, torch.stack([o.mean((0, 2, 3)) for o in outputs]).mean(0))
    torch.testing.assert_close(bn.running_var, torch.stack([o.var((0, 2, 3)) for o in outputs]).mean(0))
    assert bn.momentum == 0.1


def test_a_frozen_extractor_keeps_its_statistics():
    net = network()
    net.encoder.eval()
    before = net.encoder.backbone.bn1.running_mean.clone()
    recompute_statistics(net, iter([torch.rand(16, 1, 8, 8)]), net)
    assert torch.equal(net.encoder.backbone.bn1.running_mean, before)
