"""The two networks that are trained: features with a projection head, and features with a classifier.

Legend: B images, C channels, H height, W width, F features, D embedding dimensions, K classes.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from afa_dist.models.norm import PixelNormalise, at_least_fp32, unit

Layer = Literal["projection", "penultimate"]


class Encoder(nn.Module):
    """Pixels in [0, 1] (B, C, H, W) to penultimate features (B, F); normalises pixels first."""

    def __init__(self, normalise: PixelNormalise, backbone: nn.Module, feature_dim: int) -> None:
        super().__init__()
        self.normalise = normalise
        self.backbone = backbone
        self.feature_dim = feature_dim

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return self.backbone(self.normalise(x_BCHW))


class ProjectionHead(nn.Module):
    """Two linear layers with a ReLU between them (SupCon, 2004.11362): features (B, F) to (B, D), not normalised."""

    def __init__(self, feature_dim: int, hidden_dim: int, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(feature_dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, features_BF: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.relu(self.fc1(features_BF)))


def embed_features(head: ProjectionHead | None, features_BF: torch.Tensor) -> torch.Tensor:
    """Unit-length embeddings (B, D): the projected features, or without a head the features themselves."""
    return unit(at_least_fp32(features_BF if head is None else head(features_BF)))


class Embedded(NamedTuple):
    """What one pass of the contrastive network gives: unit-length embeddings and the probe's logits."""

    embeddings_BD: torch.Tensor
    probe_logits_BK: torch.Tensor


class ContrastiveNet(nn.Module):
    """Encoder, projection head, and a linear probe that watches the features without shaping them.

    The probe is trained by cross-entropy on detached features. It gives an accuracy to choose checkpoints by, and a
    classifier for the attack objectives "ce" and "kl". With layer "penultimate" there is no head: the features
    themselves are aligned.
    """

    def __init__(self, encoder: Encoder, head: ProjectionHead | None, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.probe = nn.Linear(encoder.feature_dim, classes)

    def forward(self, x_BCHW: torch.Tensor) -> Embedded:
        features_BF = at_least_fp32(self.encoder(x_BCHW))
        return Embedded(embed_features(self.head, features_BF), at_least_fp32(self.probe(features_BF.detach())))

    def embed(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Unit-length embeddings (B, D), without the probe."""
        return embed_features(self.head, self.encoder(x_BCHW))

    def classify(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """The probe's logits (B, K), with the gradient through the features: for attacks."""
        return at_least_fp32(self.probe(self.encoder(x_BCHW)))


class Classifier(nn.Module):
    """Encoder and linear classifier: pixels in [0, 1] to logits (B, K)."""

    def __init__(self, encoder: Encoder, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.linear = nn.Linear(encoder.feature_dim, classes)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return at_least_fp32(self.linear(self.encoder(x_BCHW)))


class JointNet(Classifier):
    """A classifier whose encoder also feeds a projection head (none with layer "penultimate"), for joint training."""

    def __init__(self, encoder: Encoder, classes: int, head: ProjectionHead | None) -> None:
        super().__init__(encoder, classes)
        self.head = head

    def embed(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Unit-length embeddings (B, D), without the classifier."""
        return embed_features(self.head, self.encoder(x_BCHW))


class JointOutput(NamedTuple):
    """What one joint pass gives: logits and unit-length embeddings."""

    logits_BK: torch.Tensor
    embeddings_BD: torch.Tensor


class JointForward(nn.Module):
    """`net` with both outputs in one pass: what DDP wraps, while `net` itself goes on giving logits alone."""

    def __init__(self, net: JointNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, x_BCHW: torch.Tensor) -> JointOutput:
        features_BF = self.net.encoder(x_BCHW)
        return JointOutput(at_least_fp32(self.net.linear(features_BF)), embed_features(self.net.head, features_BF))
