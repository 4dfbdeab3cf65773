"""WideResNets have the published sizes and names, and start from the published distribution."""

import pytest
import torch

from afa_dist.config import ModelConfig
from afa_dist.models.build import DataShape, build_classifier, build_encoder

SHAPE = DataShape(3, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3), tuple("0123456789"))


@pytest.mark.parametrize(
    ("arch", "count"),
    [
        ("resnet18", 11_173_962),
        ("resnet34", 21_282_122),
        ("resnet50", 23_520_842),
        ("wrn-34-10", 46_160_474),
        ("wrn-28-10", 36_479_194),
        ("wrn-70-16", 266_796_506),
    ],
)
def test_parameter_counts_are_the_published_ones(arch, count):
    """With 10 classes; counted without memory behind the weights."""
    with torch.device("meta"):
        net = build_classifier(ModelConfig(arch=arch), SHAPE)
    assert sum(parameter.numel() for parameter in net.parameters()) == count


def test_the_papers_36_10_has_16_blocks():
    with torch.device("meta"):
        backbone = build_encoder(ModelConfig(arch="wrn-36-10"), SHAPE).backbone
    assert [len(stage.layer) for stage in (backbone.block1, backbone.block2, backbone.block3)] == [5, 5, 6]
    assert backbone.feature_dim == 640


def test_names_are_the_common_ones():
    names = set(build_encoder(ModelConfig(arch="wrn-16-2"), SHAPE).backbone.state_dict())
    assert {"conv1.weight", "bn1.running_mean", "block1.layer.0.bn1.weight", "block3.layer.1.conv2.weight"} <= names
    shortcuts = {name for name in names if "Shortcut" in name}
    assert shortcuts == {f"block{stage}.layer.0.convShortcut.weight" for stage in (1, 2, 3)}


def test_convolutions_start_from_he_normal_by_fan_out():
    torch.manual_seed(0)
    backbone = build_encoder(ModelConfig(arch="wrn-10-4"), SHAPE).backbone
    for weight in (backbone.block3.layer[0].conv1.weight, backbone.block2.layer[0].convShortcut.weight):
        variance = 2 / (weight.shape[0] * weight.shape[2] * weight.shape[3])
        assert weight.double().var().item() == pytest.approx(variance, rel=0.05)


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("channels", [1, 3])
def test_it_takes_images_of_any_size(norm, channels):
    """Also k = 1, whose first stage needs no projection, and a digit's 8x8 pixels."""
    shape = DataShape(channels, (0.5,) * channels, (0.2,) * channels, ("a", "b"))
    for arch, size in (("wrn-10-1", 8), ("wrn-10-2", 21)):
        encoder = build_encoder(ModelConfig(arch=arch, norm=norm), shape)
        features = encoder(torch.rand(2, channels, size, size))
        assert features.shape == (2, encoder.feature_dim)
        features.sum().backward()
        assert all(parameter.grad is not None for parameter in encoder.parameters())
