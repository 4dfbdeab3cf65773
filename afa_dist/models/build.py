"""From names in a specification to networks."""

from __future__ import annotations

import dataclasses

from afa_dist.config import MethodConfig, ModelConfig
from afa_dist.models.networks import Classifier, ContrastiveNet, Encoder, JointNet, ProjectionHead
from afa_dist.models.norm import PixelNormalise
from afa_dist.models.resnet import ResNet

ARCHITECTURES: dict[str, tuple[tuple[int, ...], int]] = {
    "small-resnet": ((1, 1, 1), 32),
    "resnet18": ((2, 2, 2, 2), 64),
}
"""Blocks of each stage, and channels of the first stage."""


@dataclasses.dataclass(frozen=True)
class DataShape:
    """What a network must know of the data: channels, pixel statistics on [0, 1], class names."""

    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]


def build_encoder(model: ModelConfig, shape: DataShape) -> Encoder:
    """The feature extractor that `model` names, with fresh weights."""
    blocks, default_width = ARCHITECTURES[model.arch]
    backbone = ResNet(blocks, model.width or default_width, shape.channels, model.norm)
    return Encoder(PixelNormalise(shape.mean, shape.std), backbone, backbone.feature_dim)


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
