"""AWP climbs, by the length it says, and puts every weight back."""

import pytest
import torch
import torch.nn.functional as F

from afa_dist.config import ModelConfig
from afa_dist.models.build import DataShape, build_classifier
from afa_dist.training.awp import worst_weights

X, Y = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(16) % 3


@pytest.fixture
def net():
    torch.manual_seed(0)
    return build_classifier(ModelConfig(width=8), DataShape(1, (0.3,), (0.4,), tuple("abc"))).train()


def perturbed(net, gamma=0.05):
    return worst_weights(list(net.parameters()), net, lambda: F.cross_entropy(net(X), Y), gamma)


def test_weights_and_statistics_return_exactly(net):
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(RuntimeError), perturbed(net):
        raise RuntimeError
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(module.training for module in net.modules())


def test_each_layer_moves_along_its_gradient_by_gamma_times_its_length(net):
    loss = F.cross_entropy(net(X), Y)
    gradients = dict(zip(dict(net.named_parameters()), torch.autograd.grad(loss, list(net.parameters())), strict=True))
    before = {name: value.clone() for name, value in net.named_parameters()}
    with perturbed(net):
        for name, parameter in net.named_parameters():
            delta, g = parameter.detach() - before[name], gradients[name]
            if parameter.dim() <= 1:
                assert torch.equal(parameter, before[name]), name
                continue
            assert delta.norm().item() == pytest.approx(0.05 * before[name].norm().item(), rel=1e-3)
            assert F.cosine_similarity(delta.flatten(), g.flatten(), dim=0) > 0.999


def test_the_loss_is_higher_there(net):
    with torch.no_grad():
        here = F.cross_entropy(net(X), Y)
    with perturbed(net), torch.no_grad():
        there = F.cross_entropy(net(X), Y)
    assert there > here + 0.01
