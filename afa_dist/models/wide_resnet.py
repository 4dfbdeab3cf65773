"""WideResNets (Zagoruyko & Komodakis, 1605.07146): pre-activation blocks, three stages, K times as wide.

Modules carry the names of the definition that TRADES, AWP and RobustBench share (conv1, block1.layer.0.bn1, ...,
convShortcut, bn1), and compute what it does: where a block changes the number of channels, its shortcut takes the
*activated* input relu(bn1(x)), else the raw x. Convolutions are drawn as there, from a normal distribution of variance
2 / (k * k * out_channels) (He et al., 1502.01852, fan-out). Dropout is left out: those networks train with rate 0.
The classifier is `Classifier.linear`, drawn as torch draws it; there its bias starts at 0.

Depths are 6n+4, and 36: `afa_dist.config.architectures` says how its 16 blocks are spread (5, 5, 6).
Legend: B images, C channels, H height, W width, F features.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from afa_dist.models.norm import NormName, conv_norm, norm_factory
from afa_dist.models.resnet import MakeNorm

STEM_PLANES = 16


class WideBlock(nn.Module):
    """Normalisation, ReLU and 3x3 convolution, twice, and a shortcut (1x1 where the number of channels changes)."""

    def __init__(self, in_planes: int, planes: int, stride: int, norm: MakeNorm) -> None:
        super().__init__()
        assert stride == 1 or in_planes != planes  # else the shortcut could not follow the stride
        self.bn1 = norm(in_planes)
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn2 = norm(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.convShortcut = nn.Conv2d(in_planes, planes, 1, stride=stride, bias=False) if in_planes != planes else None

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        active = F.relu(self.bn1(x_BCHW))
        out = self.conv2(F.relu(conv_norm(self.conv1, self.bn2, active)))
        return out + (x_BCHW if self.convShortcut is None else self.convShortcut(active))


class Stage(nn.Module):
    """Blocks of one width, the first with the stage's stride; a module of its own for the sake of the names."""

    def __init__(self, count: int, in_planes: int, planes: int, stride: int, norm: MakeNorm) -> None:
        super().__init__()
        first = WideBlock(in_planes, planes, stride, norm)
        self.layer = nn.Sequential(first, *(WideBlock(planes, planes, 1, norm) for _ in range(count - 1)))

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return self.layer(x_BCHW)


class WideResNet(nn.Module):
    """Images (B, C, H, W) to features (B, F), F = 4 * width; the second and third stage halve the image.

    blocks: number of blocks of each stage. width: channels of the first stage, 16 times the widen factor K.
    """

    def __init__(self, blocks: tuple[int, int, int], width: int, channels: int, norm: NormName) -> None:
        super().__init__()
        make_norm = norm_factory(norm)
        self.conv1 = nn.Conv2d(channels, STEM_PLANES, 3, padding=1, bias=False)
        self.block1 = Stage(blocks[0], STEM_PLANES, width, 1, make_norm)
        self.block2 = Stage(blocks[1], width, 2 * width, 2, make_norm)
        self.block3 = Stage(blocks[2], 2 * width, 4 * width, 2, make_norm)
        self.feature_dim = 4 * width
        self.bn1 = make_norm(self.feature_dim)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        out = self.block3(self.block2(self.block1(self.conv1(x_BCHW))))
        return F.relu(self.bn1(out)).mean(dim=(2, 3))
