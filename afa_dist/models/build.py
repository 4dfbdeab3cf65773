"""From names in a specification to networks."""

from __future__ import annotations

import dataclasses

from afa_dist.config import MethodConfig, ModelConfig
from afa_dist.config.architectures import parse_architecture
from afa_dist.models.backbones import Backbone, make_backbone
from afa_dist.models.networks import Classifier, ContrastiveNet, Encoder, JointNet, ProjectionHead
from afa_dist.models.norm import PixelNormalise
from afa_dist.models.resnet import BasicBlock, Bottleneck, ResNet
from afa_dist.models.wide_resnet import WideResNet


@dataclasses.dataclass(frozen=True)
class DataShape:
    """What a network must know of the data: channels, pixel statistics on [0, 1], class names, size of the images."""

    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    size: tuple[int, int] = (32, 32)
    """Height and width, pixels. Only timm and torchvision backbones depend on it."""


def build_encoder(model: ModelConfig, shape: DataShape) -> Encoder:
    """The feature extractor that `model` names, with fresh weights.

    Raises:
        UserError: a timm or torchvision backbone is not known, not installed, or takes no such images.
    """
    backbone = build_backbone(model, shape)
    mean, std = (shape.mean, shape.std) if model.normalise == "data" else ((0.0,) * shape.channels, (1.0,) * shape.channels)
    return Encoder(PixelNormalise(mean, std), backbone, backbone.feature_dim)


def build_backbone(model: ModelConfig, shape: DataShape) -> ResNet | WideResNet | Backbone:
    """The network behind pixel normalisation: (B, C, H, W) to features (B, F), F being its `feature_dim`."""
    found = parse_architecture(model.arch)
    width = model.width or found.width
    if found.kind == "wide":
        first, second, third = found.blocks
        return WideResNet((first, second, third), width, shape.channels, model.norm)
    if found.kind in ("basic", "bottleneck"):
        block = BasicBlock if found.kind == "basic" else Bottleneck
        return ResNet(found.blocks, width, shape.channels, model.norm, block)
    return make_backbone(found, shape.channels, shape.size)


def build_contrastive(model: ModelConfig, method: MethodConfig, shape: DataShape) -> ContrastiveNet:
    """The network of pre-training, with fresh weights."""
    encoder = build_encoder(model, shape)
    return ContrastiveNet(encoder, _head(encoder, model, method), len(shape.classes))


def _head(encoder: Encoder, model: ModelConfig, method: MethodConfig) -> ProjectionHead | None:
    if method.layer == "penultimate":
        return None
    return ProjectionHead(encoder.feature_dim, model.projection_hidden or encoder.feature_dim, model.projection_dim)


def build_classifier(model: ModelConfig, shape: DataShape) -> Classifier:
    """The network of fine-tuning and evaluation, with fresh weights."""
    return Classifier(build_encoder(model, shape), len(shape.classes))


def build_joint(model: ModelConfig, method: MethodConfig, shape: DataShape) -> JointNet:
    """A classifier with a projection head beside it, with fresh weights."""
    encoder = build_encoder(model, shape)
    return JointNet(encoder, len(shape.classes), _head(encoder, model, method))
