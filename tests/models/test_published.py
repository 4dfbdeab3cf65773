"""Published init: small networks with the public definitions' names compute the same as ours after loading.

The definitions below are written from the papers with the public names, and serve only here.
"""

import dataclasses
import warnings

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn
from torchvision.models import resnet as torchvision_resnet

from afa_dist.config import ModelConfig
from afa_dist.errors import UserError
from afa_dist.models.build import DataShape, build_classifier
from afa_dist.models.published import load_published

SHAPE = DataShape(3, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), tuple("0123456789"))


class CommonBlock(nn.Module):
    def __init__(self, sizes, strides, planes_in, project):
        """sizes: (kernel, planes) of each convolution."""
        super().__init__()
        self.count, before = len(sizes), planes_in
        for i, ((kernel, planes), stride) in enumerate(zip(sizes, strides, strict=True), 1):
            setattr(self, f"conv{i}", nn.Conv2d(before, planes, kernel, stride, kernel // 2, bias=False))
            setattr(self, f"bn{i}", nn.BatchNorm2d(planes))
            before = planes
        self.shortcut = nn.Sequential()
        if project:
            conv = nn.Conv2d(planes_in, before, 1, max(strides), bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(before))

    def forward(self, x):
        out = x
        for i in range(1, self.count + 1):
            out = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(out))
            if i < self.count:
                out = F.relu(out)
        return F.relu(out + self.shortcut(x))


class CommonResNet(nn.Module):
    def __init__(self, blocks, bottleneck, width, classes=10):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        before = width
        for stage, count in enumerate(blocks):
            planes, layers = width << stage, []
            after = planes * 4 if bottleneck else planes
            for i in range(count):
                stride = 2 if stage and not i else 1
                sizes = [(1, planes), (3, planes), (1, after)] if bottleneck else [(3, planes), (3, planes)]
                strides = [1, stride, 1] if bottleneck else [stride, 1]
                layers.append(CommonBlock(sizes, strides, before, stride != 1 or before != after))
                before = after
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
        self.linear = nn.Linear(before, classes)

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer4(self.layer3(self.layer2(self.layer1(out))))
        return self.linear(F.avg_pool2d(out, out.shape[-1]).flatten(1))


class CommonWideBlock(nn.Module):
    def __init__(self, before, planes, stride):
        super().__init__()
        self.same = before == planes
        self.bn1 = nn.BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, planes, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        if not self.same:
            self.convShortcut = nn.Conv2d(before, planes, 1, stride, bias=False)

    def forward(self, x):
        active = self.bn1(x).clamp(min=0)
        out = self.conv2(self.bn2(self.conv1(active)).clamp(min=0))
        return x + out if self.same else self.convShortcut(active) + out


class CommonWideStage(nn.Module):
    def __init__(self, count, before, planes, stride):
        super().__init__()
        blocks = [CommonWideBlock(planes if i else before, planes, 1 if i else stride) for i in range(count)]
        self.layer = nn.Sequential(*blocks)

    def forward(self, x):
        return self.layer(x)


class CommonWideResNet(nn.Module):
    def __init__(self, depth, k, classes=10):
        super().__init__()
        count = (depth - 4) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.block1 = CommonWideStage(count, 16, 16 * k, 1)
        self.sub_block1 = CommonWideStage(count, 16, 16 * k, 1)  # TRADES: built, saved, never run
        self.block2 = CommonWideStage(count, 16 * k, 32 * k, 2)
        self.block3 = CommonWideStage(count, 32 * k, 64 * k, 2)
        self.bn1 = nn.BatchNorm2d(64 * k)
        self.fc = nn.Linear(64 * k, classes)

    def forward(self, x):
        out = F.relu(self.bn1(self.block3(self.block2(self.block1(self.conv1(x))))))
        return self.fc(F.avg_pool2d(out, 8).flatten(1))


def random_state(net):
    """Weights and statistics as if trained: every one of them matters for the logits."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in net.state_dict().items():
        if tensor.is_floating_point():
            noise = torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype)
            tensor.copy_(
                noise + 0.5 if tensor.dim() == 1 and "bias" not in name else (noise - 0.5) / tensor[0].numel() ** 0.5
            )
    return net.state_dict()


def check_parity(theirs, arch, state=None, width=0):
    """Load the state of `theirs` into our `arch` and compare logits in float64."""
    theirs = theirs.double().eval()
    x = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    random_state(theirs)
    ours = build_classifier(ModelConfig(arch=arch, width=width), SHAPE).double().eval()
    load_published(ours, state(theirs) if state else theirs.state_dict())
    want = theirs(x)
    assert want.std() > 1e-4
    torch.testing.assert_close(ours(x), want, rtol=1e-9, atol=1e-9)


def test_resnet18():
    check_parity(CommonResNet([2, 2, 2, 2], False, 16), "resnet18", width=16)


def test_resnet34():
    check_parity(CommonResNet([3, 4, 6, 3], False, 8), "resnet34", width=8)


def test_resnet50():
    check_parity(CommonResNet([3, 4, 6, 3], True, 8), "resnet50", width=8)


@pytest.mark.parametrize(("depth", "k"), [(10, 1), (16, 2), (28, 1)])
def test_wide_resnet_of_trades_with_its_idle_stage(depth, k):
    check_parity(CommonWideResNet(depth, k), f"wrn-{depth}-{k}")


@pytest.mark.parametrize("block", ["BasicBlock", "Bottleneck"])
def test_torchvisions_blocks_with_the_cifar_stem(block):
    """An independent definition: its names are downsample.* and fc.*."""
    layers = [2, 2, 2, 2] if block == "BasicBlock" else [3, 4, 6, 3]
    theirs = torchvision_resnet.ResNet(getattr(torchvision_resnet, block), layers, num_classes=10)
    theirs.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    theirs.maxpool = nn.Identity()
    check_parity(theirs, "resnet18" if block == "BasicBlock" else "resnet50")


@pytest.mark.parametrize("prefix", ["module.", "model.", "backbone.", "module.model.", "1.", "module.1."])
def test_wrappers_and_pixel_statistics_are_taken_off(prefix):
    def wrapped(net):
        state = {prefix + name: value for name, value in net.state_dict().items() if "num_batches" not in name}
        return {**state, "mu": torch.zeros(1, 3, 1, 1), "normalize.std": torch.ones(3)}

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_parity(CommonWideResNet(10, 1), "wrn-10-1", wrapped)


def test_missing_pixel_statistics_are_warned_about_where_pixels_are_normalised():
    """Most robust models take pixels as they are, and say nothing of it in their file."""
    shape = dataclasses.replace(SHAPE, mean=(0.49, 0.48, 0.45), std=(0.2, 0.2, 0.2))
    state = CommonWideResNet(10, 1).state_dict()
    with pytest.warns(UserWarning, match=r"mean 0.49, 0.48, 0.45 .*model.normalise none"):
        load_published(build_classifier(ModelConfig(arch="wrn-10-1"), shape), state)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_published(build_classifier(ModelConfig(arch="wrn-10-1", normalise="none"), shape), state)


def test_other_pixel_statistics_are_warned_about():
    state = {**CommonWideResNet(10, 1).state_dict(), "mu": torch.tensor([0.4914, 0.4822, 0.4465]).view(1, 3, 1, 1)}
    with pytest.warns(UserWarning, match=r"trained with mu 0.4914, 0.4822, 0.4465, this one has 0, 0, 0"):
        load_published(build_classifier(ModelConfig(arch="wrn-10-1"), SHAPE), state)


def test_a_safetensors_file_is_read(tmp_path):
    theirs = CommonResNet([2, 2, 2, 2], False, 8)
    save_file(theirs.state_dict(), tmp_path / "x.safetensors")
    check = build_classifier(ModelConfig(arch="resnet18", width=8), SHAPE)
    load_published(check, tmp_path / "x.safetensors")
    assert torch.equal(check.linear.weight, theirs.linear.weight)
    (tmp_path / "x.safetensors").write_bytes(b"no tensors")
    for path in (tmp_path / "x.safetensors", tmp_path / "missing.safetensors"):
        with pytest.raises(UserError, match="cannot be read"):
            load_published(check, str(path))


@pytest.mark.parametrize("suffix", ["pt", "pth", "ckpt", "bin", "tar", "pkl"])
def test_pickles_are_refused_unopened(suffix):
    with pytest.raises(UserError, match=r"weights_only=True.*save_file"):
        load_published(build_classifier(ModelConfig(arch="wrn-10-1"), SHAPE), f"missing.{suffix}")


def test_what_does_not_fit_is_listed_and_nothing_is_loaded():
    net = build_classifier(ModelConfig(arch="wrn-10-1"), SHAPE)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = dict(CommonWideResNet(10, 1, classes=7).state_dict())
    del state["block2.layer.0.conv1.weight"]
    state.update({f"extra{i}": torch.zeros(1) for i in range(6)})
    with pytest.raises(UserError) as refused:
        load_published(net, state)
    missing, unexpected, shapes = map(str, refused.value.problems)
    assert "1 missing: block2.layer.0.conv1.weight;" in missing
    assert "6 not expected: extra0, extra1, extra2, extra3, ...;" in unexpected
    assert "linear.weight (7, 64) instead of (10, 64)" in shapes
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_two_tensors_for_one_name_are_refused():
    state = dict(CommonWideResNet(10, 1).state_dict())
    state["linear.weight"] = state["fc.weight"]
    with pytest.raises(UserError, match=r"fc.weight and linear.weight are both linear.weight"):
        load_published(build_classifier(ModelConfig(arch="wrn-10-1"), SHAPE), state)


def test_other_backbones_have_no_published_definition_of_this_kind():
    net = build_classifier(ModelConfig(arch="torchvision:mobilenet_v3_small"), SHAPE)
    with pytest.raises(UserError, match="resnets and wrn-D-K only"):
        load_published(net, {})
