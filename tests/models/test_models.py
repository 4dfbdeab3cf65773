"""The networks are the published ones, and BatchNorm over several processes is BatchNorm."""

import contextlib
from collections import Counter

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from afa_dist.attacks import attack_mode
from afa_dist.config import MethodConfig, ModelConfig
from afa_dist.models import norm as norms
from afa_dist.models.build import DataShape, build_classifier, build_contrastive, build_encoder
from afa_dist.models.norm import GlobalBatchNorm2d, PixelNormalise, folds_kept

SHAPE = DataShape(3, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3), tuple("0123456789"))


def test_resnet18_is_the_common_cifar_definition():
    """11.17 M parameters with 10 classes, and the parameter names that public weights come with."""
    net = build_classifier(ModelConfig(arch="resnet18"), SHAPE)
    assert sum(p.numel() for p in net.parameters()) == 11_173_962
    names = set(net.encoder.backbone.state_dict())
    assert {"conv1.weight", "bn1.running_var", "layer1.0.conv1.weight", "layer4.1.bn2.bias"} <= names
    assert {"layer2.0.shortcut.0.weight", "layer2.0.shortcut.1.running_mean"} <= names
    assert "layer1.0.shortcut.0.weight" not in names
    out = net.encoder.backbone.layer4(torch.rand(1, 256, 8, 8))
    assert out.shape == (1, 512, 4, 4)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_width_and_norm_do_what_they_say(norm):
    encoder = build_encoder(ModelConfig(width=24, norm=norm), SHAPE)
    assert encoder.feature_dim == 96
    assert encoder(torch.rand(2, 3, 32, 32)).shape == (2, 96)
    kind = nn.BatchNorm2d if norm == "batch" else nn.GroupNorm
    assert isinstance(encoder.backbone.bn1, kind)


def test_normalisation_lies_inside_the_model():
    normalise = PixelNormalise(SHAPE.mean, SHAPE.std)
    x = torch.tensor(SHAPE.mean)[None, :, None, None].expand(1, 3, 2, 2)
    assert torch.equal(normalise(x), torch.zeros(1, 3, 2, 2))
    net = build_classifier(ModelConfig(width=8), SHAPE)
    assert "encoder.normalise.mean_C" in net.state_dict()  # exported with the weights
    plain = build_encoder(ModelConfig(width=8, normalise="none"), SHAPE)
    assert torch.equal(plain.normalise(x), x)


def test_embeddings_have_unit_length_and_penultimate_has_no_head():
    x = torch.rand(4, 3, 16, 16)
    for layer, dim in (("projection", 128), ("penultimate", 32)):
        net = build_contrastive(ModelConfig(width=8), MethodConfig(layer=layer), SHAPE)
        z = net(x).embeddings_BD
        assert z.shape == (4, dim)
        torch.testing.assert_close(z.norm(dim=1), torch.ones(4))
        assert (net.head is None) == (layer == "penultimate")


@pytest.mark.parametrize("momentum", [0.1, None], ids=["moving", "equal weights"])
def test_the_formula_of_global_batch_norm_is_that_of_batch_norm(momentum, monkeypatch):
    """The path for several processes, taken here by one: same output, gradients and running statistics."""
    x = torch.randn(6, 4, 5, 5, dtype=torch.float64) * 3 + 1
    ours, theirs = GlobalBatchNorm2d(4, momentum=momentum).double(), nn.BatchNorm2d(4, momentum=momentum).double()
    theirs(torch.randn_like(x))  # statistics of an earlier batch
    ours.weight.data.uniform_(0.5, 2)
    theirs.load_state_dict(ours.state_dict())
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    want = theirs(b)
    calls = iter([2])  # once to choose the path, then the true size

    monkeypatch.setattr(norms, "world_size", lambda: next(calls, 1))
    got = ours(a)
    torch.testing.assert_close(got, want)
    weights = torch.randn_like(x)
    (got * weights).sum().backward()
    (want * weights).sum().backward()
    torch.testing.assert_close(a.grad, b.grad)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value)


class Calls(TorchDispatchMode):
    """Counts the operations called inside, by name."""

    def __init__(self):
        super().__init__()
        self.names = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("arch", "left"), [("resnet18", 0), ("resnet50", 0), ("wrn-10-1", 4)])
def test_batch_norm_is_part_of_its_convolution_in_an_attack(arch, left):
    """Same features and gradients without BatchNorm's own passes; `left`: layers that follow no convolution."""
    net = build_encoder(ModelConfig(arch=arch, width=0 if arch.startswith("wrn") else 8), SHAPE).double().eval()
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.2, 3)
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias)
    x = torch.rand(2, 3, 16, 16, dtype=torch.float64, requires_grad=True)
    values = []
    for mode in (contextlib.nullcontext(), attack_mode(net)):
        with mode, Calls() as calls:
            features = net(x)
            values.append((features.detach(), *torch.autograd.grad((features * features.detach().cos()).sum(), x)))
    assert calls.names["native_batch_norm"] + calls.names["native_batch_norm_backward"] == 2 * left
    for plain, folded in zip(*values, strict=True):
        torch.testing.assert_close(folded, plain, rtol=1e-9, atol=1e-9 * plain.abs().max().item())


def test_folds_that_are_kept_give_the_same_bits_and_are_forgotten_afterwards():
    torch.manual_seed(0)
    net = build_classifier(ModelConfig(width=8), DataShape(1, (0.3,), (0.2,), tuple("0123456789"))).eval()
    net.requires_grad_(False)
    x = torch.rand(4, 1, 8, 8)
    with torch.no_grad():
        plain = net(x)
        with folds_kept():
            assert torch.equal(net(x), plain) and torch.equal(net(x), plain)
        for buffer in net.buffers():
            if buffer.is_floating_point():
                buffer.mul_(1.5)
        assert not torch.equal(net(x), plain)
        with folds_kept():
            changed = net(x)
        assert torch.equal(net(x), changed)
