"""Names of network architectures, read without building anything.

    small-resnet, resnet18, resnet34, resnet50      CIFAR forms of He et al., 1512.03385
    wrn-D-K                                         WideResNet (1605.07146): depth D = 6n+4, K times as wide
    timm:NAME, torchvision:NAME                     any backbone of those packages

**wrn-36-K.** The AFA paper (2402.12187) reports a "WideResNet-36-10", but 36 is not 6n+4: four layers lie outside the
three stages, a block has two, so the stages would hold 16 blocks, 5 1/3 each. Here they are spread as evenly as they go,
the additional one last: 5, 5, 6. Whether the authors did the same is not known. Any other depth is refused.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from typing import Literal

Kind = Literal["basic", "bottleneck", "wide", "timm", "torchvision"]

ODD_DEPTH = 36
"""The one depth that is accepted without being 6n+4; see above."""

WIDE_EXAMPLES = ("wrn-28-10", "wrn-34-10", "wrn-36-10", "wrn-70-16")
"""WideResNets that the literature of robust training uses."""

MAX_DIGITS = 6
"""Longer numbers are not read: no such network could be built."""


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What a name stands for.

    kind: residual networks of basic, bottleneck or wide (pre-activation) blocks, or the package a backbone is from.
    blocks: residual blocks of each stage. width: channels of the first stage unless `model.width` says otherwise; of
    a wide network 16 times its factor. backbone: the name inside the package.
    """

    kind: Kind
    blocks: tuple[int, ...] = ()
    width: int = 0
    backbone: str = ""

    @property
    def is_backbone(self) -> bool:
        return self.kind in ("timm", "torchvision")


NAMED = {
    "small-resnet": Architecture("basic", (1, 1, 1), 32),
    "resnet18": Architecture("basic", (2, 2, 2, 2), 64),
    "resnet34": Architecture("basic", (3, 4, 6, 3), 64),
    "resnet50": Architecture("bottleneck", (3, 4, 6, 3), 64),
}

FORMS = f"{', '.join(NAMED)}, wrn-DEPTH-WIDTH (such as {', '.join(WIDE_EXAMPLES)}), timm:NAME, torchvision:NAME"
"""Every valid form of a name, for help and messages."""


def parse_architecture(name: str) -> Architecture:
    """Read an architecture's name.

    Raises:
        ValueError: no such architecture; the message says what is valid, without naming the option.
    """
    if name in NAMED:
        return NAMED[name]
    kind, colon, backbone = name.partition(":")
    if colon and kind in ("timm", "torchvision"):
        if not backbone:
            raise ValueError(f"{name!r} lacks the backbone's name; for example {kind}:resnet18")
        return Architecture("timm" if kind == "timm" else "torchvision", backbone=backbone)
    match = re.fullmatch(rf"wrn-([0-9]{{1,{MAX_DIGITS}}})-([0-9]{{1,{MAX_DIGITS}}})", name)
    if match is None:
        close = difflib.get_close_matches(name, [*NAMED, *WIDE_EXAMPLES], n=1)
        meant = f" (did you mean {close[0]}?)" if close else ""
        raise ValueError(f"{name!r} is not known{meant}; choose one of: {FORMS}")
    return _wide(name, int(match[1]), int(match[2]))


def _wide(name: str, depth: int, factor: int) -> Architecture:
    if factor < 1:
        raise ValueError(f"{name}: the width factor must be at least 1, for example wrn-{depth}-10")
    blocks = wide_blocks(depth)
    if blocks is None:
        nearest = " and ".join(map(str, nearest_depths(depth)))
        verb = "are" if "and" in nearest else "is"
        raise ValueError(f"{name}: depth {depth} is not 6n+4; the nearest valid {verb} {nearest}")
    return Architecture("wide", blocks, 16 * factor)


def wide_blocks(depth: int) -> tuple[int, int, int] | None:
    """Blocks of the three stages of a WideResNet of `depth` convolutions, or None where they do not come out."""
    if depth == ODD_DEPTH:
        return (5, 5, 6)
    count, rest = divmod(depth - 4, 6)
    return (count, count, count) if count >= 1 and rest == 0 else None


def nearest_depths(depth: int) -> list[int]:
    """The valid depths next to `depth` on either side, ascending; below the smallest one, that one alone."""
    below = next((d for d in range(depth - 1, max(9, depth - 7), -1) if wide_blocks(d)), None)
    above = next(d for d in range(max(10, depth + 1), max(10, depth) + 7) if wide_blocks(d))
    return [above] if below is None else [below, above]
