"""Backbones of timm and torchvision: features found, nothing random, statistics over all workers, clear refusals."""

import copy
import importlib.util
import sys
import warnings

import pytest
import torch
from torch import nn

from afa_dist.config import FinetuneRun, ModelConfig
from afa_dist.config.architectures import parse_architecture
from afa_dist.errors import UserError
from afa_dist.models.backbones import make_backbone
from afa_dist.models.build import DataShape, build_classifier, build_encoder
from afa_dist.models.export import load_classifier, save_classifier
from afa_dist.models.norm import GlobalBatchNorm2d
from afa_dist.models.surgery import (
    GlobalBatchNormAct2d,
    batch_statistics_left,
    disable_dropping,
    globalise_batch_norm,
)
from afa_dist.training.preflight import init_problems, model_problems

needs_timm = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is an optional extra")


def shape(channels=3, size=(32, 32)):
    return DataShape(channels, (0.5,) * channels, (0.25,) * channels, tuple("abc"), size)


def encoder(arch, channels=3, size=(32, 32)):
    return build_encoder(ModelConfig(arch=arch), shape(channels, size))


@pytest.mark.parametrize(
    ("arch", "channels", "size", "features"),
    [
        ("torchvision:resnet18", 3, (32, 32), 512),
        ("torchvision:mobilenet_v3_small", 1, (8, 8), 1024),
        ("torchvision:mobilenet_v3_small", 1, (28, 40), 1024),
        ("torchvision:squeezenet1_1", 3, (32, 32), 512),
        pytest.param("timm:test_resnet", 1, (8, 8), None, marks=needs_timm),
        pytest.param("timm:test_efficientnet", 3, (32, 24), None, marks=needs_timm),  # BatchNormAct2d
        pytest.param("timm:test_vit", 3, (32, 32), 64, marks=needs_timm),
        pytest.param("timm:test_vit", 4, (32, 48), 64, marks=needs_timm),
        pytest.param("timm:resnet10t", 3, (32, 32), 512, marks=needs_timm),
    ],
)
def test_features_are_found_for_images_of_the_datas_size(arch, channels, size, features):
    net = encoder(arch, channels, size)
    assert features is None or net.feature_dim == features
    assert net.training
    x = torch.rand(2, channels, *size)
    first, second = net(x), net(x)
    assert first.shape == (2, net.feature_dim)
    assert torch.equal(first, second)  # in training mode: nothing is dropped at random
    first.sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters() if parameter.requires_grad)
    for module in net.modules():
        assert not isinstance(module, nn.modules.batchnorm._BatchNorm) or isinstance(module, GlobalBatchNorm2d)
        assert not isinstance(module, nn.modules.dropout._DropoutNd) or module.p == 0


def test_grey_images_are_repeated():
    net = encoder("torchvision:mobilenet_v3_small", 1).eval()
    x = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(net(x), net.backbone.net(net.normalise(x).repeat(1, 3, 1, 1)))


def test_the_same_seed_gives_the_same_weights_and_trying_out_leaves_no_trace():
    states = []
    for _ in range(2):
        torch.manual_seed(5)
        states.append(encoder("torchvision:mobilenet_v3_small").state_dict())
        after = torch.rand(1)
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert all(value == 0 for name, value in states[0].items() if name.endswith("num_batches_tracked"))
    torch.manual_seed(5)
    from torchvision.models import mobilenet_v3_small

    theirs = mobilenet_v3_small(weights=None)
    assert torch.equal(after, torch.rand(1))
    assert torch.equal(theirs.features[0][0].weight, states[0]["backbone.net.features.0.0.weight"])


@needs_timm
@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet"])
def test_global_batch_norm_computes_what_the_original_did(name):
    """Output, gradients and running statistics of a training step, and the names of everything."""
    import timm

    theirs = timm.create_model(name, num_classes=0)
    disable_dropping(theirs)
    ours = copy.deepcopy(theirs)
    globalise_batch_norm(ours)
    assert batch_statistics_left(theirs)
    assert batch_statistics_left(ours) == []
    assert any(isinstance(module, GlobalBatchNormAct2d) for module in ours.modules()) == (name == "test_efficientnet")
    assert list(ours.state_dict()) == list(theirs.state_dict())
    x = torch.rand(4, 3, 32, 32)
    want, got = theirs(x), ours(x)
    torch.testing.assert_close(got, want)
    want.square().sum().backward()
    got.square().sum().backward()
    for (key, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=key)
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], value, msg=key)


def test_layers_keep_weights_settings_and_sharing():
    shared = nn.BatchNorm2d(4, eps=0.1, momentum=0.3)
    shared.weight.data.uniform_(1, 2)
    shared.weight.requires_grad_(False)
    shared.running_mean.fill_(7)
    net = nn.ModuleDict({"a": nn.Sequential(shared), "b": shared, "c": nn.BatchNorm2d(4, affine=False)}).eval()
    globalise_batch_norm(net)
    new = net["b"]
    assert isinstance(new, GlobalBatchNorm2d)
    assert net["a"][0] is new
    assert (new.eps, new.momentum, new.training) == (0.1, 0.3, False)
    assert torch.equal(new.weight, shared.weight)
    assert (new.weight.requires_grad, new.bias.requires_grad) == (False, True)
    assert torch.equal(new.running_mean, shared.running_mean)
    assert batch_statistics_left(net) == ["BatchNorm2d"]  # the one without weights


def test_dropping_is_off_wherever_it_is_kept():
    from torchvision.models import DenseNet, SwinTransformer, efficientnet_b0

    for net in (
        DenseNet(8, (1, 1), 8, drop_rate=0.5),
        efficientnet_b0(dropout=0.5, stochastic_depth_prob=0.5),
        SwinTransformer([4, 4], 8, [1, 1], [2, 2], [2, 2], attention_dropout=0.5, dropout=0.5),
        nn.TransformerEncoderLayer(8, 2, 8, dropout=0.5, batch_first=True),
    ):
        disable_dropping(net)
        x = torch.rand(2, 3, 8) if isinstance(net, nn.TransformerEncoderLayer) else torch.rand(2, 3, 32, 32)
        state = torch.get_rng_state()
        net.train()(x)
        assert torch.equal(state, torch.get_rng_state()), type(net).__name__


@needs_timm
def test_timms_dropping_is_off_as_well():
    import timm

    rates = {"drop_rate": 0.5, "drop_path_rate": 0.5}
    vit = timm.create_model("test_vit", attn_drop_rate=0.5, proj_drop_rate=0.5, patch_drop_rate=0.5, **rates)
    block = timm.create_model("test_resnet", drop_block_rate=0.5, **rates)
    for net in (vit, block, timm.create_model("test_efficientnet", **rates)):
        disable_dropping(net)
        x = torch.rand(2, 3, *net.default_cfg["input_size"][1:])
        state = torch.get_rng_state()
        net.train()(x)
        assert torch.equal(state, torch.get_rng_state()), type(net).__name__


@needs_timm
def test_other_batch_statistics_are_warned_about():
    with pytest.warns(UserWarning, match=r"model.arch: timm:levit_128s .*BatchNorm1d.*scaling.workers"):
        encoder("timm:levit_128s")


@needs_timm
def test_parameters_without_influence_are_frozen():
    net = encoder("timm:efficientvim_m1")
    assert [name for name, p in net.named_parameters() if not p.requires_grad] == ["backbone.net.weights"]


@pytest.mark.parametrize(
    ("arch", "channels", "size", "words"),
    [
        ("torchvision:resnet19", 3, (32, 32), ["resnet18", "torchvision.models.list_models", "lists all"]),
        ("torchvision:zzz", 3, (32, 32), ["torchvision:zzz is not known; python -c"]),
        ("torchvision:fcn_resnet50", 3, (32, 32), ["not known"]),  # segments, does not classify
        ("torchvision:maxvit_t", 3, (32, 32), ["32x32 pixels and 3 channels", "not divisible by partition size", "choose"]),
        ("torchvision:vit_b_16", 3, (24, 24), ["24x24 pixels", "indivisible"]),
        ("torchvision:vit_b_16", 3, (32, 16), ["32x16 pixels", "square"]),
        ("torchvision:resnet18", 2, (32, 32), ["1 or 3 channels, not 2"]),
        pytest.param("timm:resnet19", 3, (32, 32), ["resnet18", "timm.list_models()"], marks=needs_timm),
        pytest.param("timm:resnet18.a1_in1k", 3, (32, 32), ["is not known", "resnet18"], marks=needs_timm),
        pytest.param("timm:hf-hub:timm/resnet18", 3, (32, 32), ["is not known"], marks=needs_timm),
        pytest.param("timm:test_vit", 3, (8, 8), ["8x8 pixels", "choose"], marks=needs_timm),
        pytest.param("timm:inception_v4", 1, (8, 8), ["8x8 pixels and 1 channel (", "choose"], marks=needs_timm),
    ],
)
def test_what_cannot_be_built_is_refused_by_name(arch, channels, size, words):
    with pytest.raises(UserError) as refused:
        encoder(arch, channels, size)
    (problem,) = refused.value.problems
    assert problem.where == "model.arch"
    assert "\n" not in problem.what
    for word in words:
        assert word in problem.what


def test_a_missing_timm_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"model.arch: timm:resnet18 needs timm.*pip install 'afa-dist\[timm\]'"):
        make_backbone(parse_architecture("timm:resnet18"), 3, (32, 32))


def test_mistakes_show_before_a_run_starts(digits, monkeypatch):
    """Once each, and only for backbones: our own networks take digits as they take anything."""
    for arch, found in (("torchvision:resnet19", 1), ("torchvision:maxvit_t", 1), ("wrn-16-1", 0)):
        run = FinetuneRun(mode="full", model=ModelConfig(arch=arch))
        assert len([*model_problems(run, digits)]) == found
        assert [*init_problems(run, digits)] == []
    run = FinetuneRun(mode="full", model=ModelConfig(arch="torchvision:mobilenet_v3_small"))
    assert [*model_problems(run, digits)] == []


@pytest.mark.parametrize(
    "arch", ["torchvision:mobilenet_v3_small", "wrn-10-1", pytest.param("timm:test_vit", marks=needs_timm)]
)
def test_an_export_remembers_the_size_of_images(arch, tmp_path):
    of = shape(1, (16, 32))
    run = FinetuneRun(mode="full", model=ModelConfig(arch=arch))
    net = build_classifier(run.model, of).eval()
    save_classifier(tmp_path, net.state_dict(), run, of)
    x = torch.rand(2, 1, 16, 32)
    loaded = load_classifier(tmp_path)
    assert loaded.config["shape"]["size"] == [16, 32]
    torch.testing.assert_close(loaded.net(x), net(x))


def test_exports_from_before_the_size_was_recorded_load(tmp_path):
    run = FinetuneRun(mode="full")
    net = build_classifier(run.model, shape()).eval()
    save_classifier(tmp_path, net.state_dict(), run, shape())
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace('"size"', '"not_yet"'))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(load_classifier(tmp_path).net(torch.ones(1, 3, 9, 9)), net(torch.ones(1, 3, 9, 9)))
