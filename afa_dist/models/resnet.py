"""ResNets for small images (He et al., 1512.03385, in the CIFAR form: 3x3 stem, no pooling after it).

Modules carry the names of the common public CIFAR definitions (conv1, bn1, layer1.0.conv1, ..., shortcut.0), so that
their weights load by name. Legend: B images, C channels, H height, W width, F features.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from afa_dist.models.norm import NormName, conv_norm, norm_factory

MakeNorm = Callable[[int], nn.Module]


def projection(in_planes: int, out_planes: int, stride: int, norm: MakeNorm) -> nn.Sequential:
    """The shortcut around a block: nothing where shapes agree, else a 1x1 convolution with normalisation."""
    if stride == 1 and in_planes == out_planes:
        return nn.Sequential()
    return Projection(nn.Conv2d(in_planes, out_planes, 1, stride=stride, bias=False), norm(out_planes))


class Projection(nn.Sequential):
    """A convolution and its normalisation."""

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        conv, norm = self
        assert isinstance(conv, nn.Conv2d)
        return conv_norm(conv, norm, x_BCHW)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, in_planes: int, planes: int, stride: int, norm: MakeNorm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = norm(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = norm(planes)
        self.shortcut = projection(in_planes, planes, stride, norm)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        out = F.relu(conv_norm(self.conv1, self.bn1, x_BCHW))
        out = conv_norm(self.conv2, self.bn2, out)
        return F.relu(out + self.shortcut(x_BCHW))


class Bottleneck(nn.Module):
    """A 1x1, a 3x3 and a 1x1 convolution that widens 4 times, and a shortcut.

    The 3x3 convolution carries the stride, as in the public CIFAR definitions and torchvision (the paper's first 1x1
    does).
    """

    expansion = 4

    def __init__(self, in_planes: int, planes: int, stride: int, norm: MakeNorm) -> None:
        super().__init__()
        out_planes = self.expansion * planes
        self.conv1 = nn.Conv2d(in_planes, planes, 1, bias=False)
        self.bn1 = norm(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn2 = norm(planes)
        self.conv3 = nn.Conv2d(planes, out_planes, 1, bias=False)
        self.bn3 = norm(out_planes)
        self.shortcut = projection(in_planes, out_planes, stride, norm)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        out = F.relu(conv_norm(self.conv1, self.bn1, x_BCHW))
        out = F.relu(conv_norm(self.conv2, self.bn2, out))
        out = conv_norm(self.conv3, self.bn3, out)
        return F.relu(out + self.shortcut(x_BCHW))


class ResNet(nn.Module):
    """Images (B, C, H, W) to features (B, F): stages of blocks, each after the first halving the image.

    blocks: number of blocks a stage. width: channels of the first stage, doubled by each later one. With bottleneck
    blocks a stage puts out 4 times its channels.
    """

    def __init__(
        self,
        blocks: tuple[int, ...],
        width: int,
        channels: int,
        norm: NormName,
        block: type[BasicBlock] | type[Bottleneck] = BasicBlock,
    ) -> None:
        super().__init__()
        make_norm = norm_factory(norm)
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = make_norm(width)
        planes_in = width
        self.stages = len(blocks)
        for index, count in enumerate(blocks):
            planes = width * 2**index
            layers = []
            for position in range(count):
                layers.append(block(planes_in, planes, 2 if index > 0 and position == 0 else 1, make_norm))
                planes_in = planes * block.expansion
            self.add_module(f"layer{index + 1}", nn.Sequential(*layers))
        self.feature_dim = planes_in

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        out = F.relu(conv_norm(self.conv1, self.bn1, x_BCHW))
        for index in range(self.stages):
            out = self.get_submodule(f"layer{index + 1}")(out)
        return out.mean(dim=(2, 3))
