"""ResNets for small images (He et al., 1512.03385, in the CIFAR form: 3x3 stem, no pooling after it).

Modules carry the names of the common public CIFAR definitions (conv1, bn1, layer1.0.conv1, ..., shortcut.0), so that
their weights load by name. Legend: B images, C channels, H height, W width, F features.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from afa_dist.models.norm import NormName, norm_factory


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, in_planes: int, planes: int, stride: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = norm(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = norm(planes)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_planes != planes:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_planes, planes, 1, stride=stride, bias=False),
                norm(planes),
            )

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.bn1(self.conv1(x_BCHW)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x_BCHW))


class ResNet(nn.Module):
    """Images (B, C, H, W) to features (B, F): stages of basic blocks, each after the first halving the image.

    blocks: number of basic blocks a stage. width: channels of the first stage, doubled by each later one.
    """

    def __init__(self, blocks: tuple[int, ...], width: int, channels: int, norm: NormName) -> None:
        super().__init__()
        make_norm = norm_factory(norm)
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = make_norm(width)
        planes_in = width
        self.stages = len(blocks)
        for index, count in enumerate(blocks):
            planes = width * 2**index
            layers = []
            for block in range(count):
                layers.append(BasicBlock(planes_in, planes, 2 if index > 0 and block == 0 else 1, make_norm))
                planes_in = planes
            self.add_module(f"layer{index + 1}", nn.Sequential(*layers))
        self.feature_dim = planes_in

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.bn1(self.conv1(x_BCHW)))
        for index in range(self.stages):
            out = self.get_submodule(f"layer{index + 1}")(out)
        return out.mean(dim=(2, 3))
