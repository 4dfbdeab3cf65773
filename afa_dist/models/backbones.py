"""Any backbone of timm or torchvision, by name, as a feature extractor for images of the data's size.

Both packages are imported when a backbone of theirs is asked for: timm is an optional extra. Nothing is downloaded;
weights are fresh. What comes back differs from the original in four ways:

- **The classifier is off.** timm: `num_classes=0`. torchvision: its last layer is replaced by the identity.
- **Nothing is dropped.** Dropout and stochastic depth have their probabilities set to 0: they draw from the global random
  state, so results would depend on the number of workers and on restarts.
- **BatchNorm is global.** `nn.BatchNorm2d` and timm's `BatchNormAct2d` become `GlobalBatchNorm2d`, under the same names.
  A layer of another kind that has batch statistics stays as it is, with a warning.
- **Parameters without influence on the features are frozen**: DDP would wait for their gradients forever.

Legend: B images, C channels, H height, W width, F features.
"""

from __future__ import annotations

import difflib
import importlib
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from afa_dist.config.architectures import Architecture
from afa_dist.errors import UserError
from afa_dist.models.surgery import batch_statistics_left, disable_dropping, globalise_batch_norm, split_off_classifier

OPTION = "model.arch"
RGB = 3


class Backbone(nn.Module):
    """A network of another package: images (B, C, H, W) to features (B, F).

    repeat: how often a grey image is repeated to fill the channels that `net` expects; 1 = not at all.
    """

    def __init__(self, net: nn.Module, repeat: int = 1) -> None:
        super().__init__()
        self.net = net
        self.repeat = repeat
        self.feature_dim = 0
        """F; `make_backbone` finds it out."""

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return self.net(x_BCHW if self.repeat == 1 else x_BCHW.expand(-1, self.repeat, -1, -1))


def make_backbone(found: Architecture, channels: int, size: tuple[int, int]) -> Backbone:
    """The backbone that `found` names, with fresh weights, for images of `channels` and `size` (height, width, pixels).

    Raises:
        UserError: timm is missing, the name is not known, or the backbone cannot be used for such images.
    """
    name = f"{found.kind}:{found.backbone}"
    make = _from_timm if found.kind == "timm" else _from_torchvision
    try:
        backbone = make(found.backbone, channels, size)
        disable_dropping(backbone)
        backbone.feature_dim = _try_out(backbone, name, channels, size)
    except UserError:
        raise
    except Exception as error:  # whatever the other package raises, the reader learns why and what to change
        height, width = size
        images = f"images of {height}x{width} pixels and {channels} channel{'s' if channels > 1 else ''}"
        what = f"{name} cannot be used for {images} ({_reason(error)}); choose a backbone for this size, or other images"
        raise UserError.one(OPTION, what) from error
    globalise_batch_norm(backbone)
    if left := batch_statistics_left(backbone):
        warnings.warn(
            f"{OPTION}: {name} has batch statistics that each worker computes on its own images ({', '.join(left)}), so "
            "results depend on the number of workers; use scaling.workers 0 or 1",
            stacklevel=2,
        )
    return backbone


def _from_timm(name: str, channels: int, size: tuple[int, int]) -> Backbone:
    try:
        timm = importlib.import_module("timm")
    except ImportError as error:
        what = f"timm:{name} needs timm, which is not installed: pip install 'afa-dist[timm]'"
        raise UserError.one(OPTION, what) from error
    # The list, not `is_model`: that one accepts tags of pre-trained weights, which are not loaded here.
    _check_known("timm", name, timm.list_models(), "timm.list_models()")
    options: dict[str, Any] = {"pretrained": False, "num_classes": 0, "in_chans": channels}
    image = size[0] if size[0] == size[1] else size
    try:
        return Backbone(timm.create_model(name, img_size=image, **options))
    except TypeError as error:
        if "img_size" not in str(error):
            raise
    return Backbone(timm.create_model(name, **options))  # takes images of any size


def _from_torchvision(name: str, channels: int, size: tuple[int, int]) -> Backbone:
    models = importlib.import_module("torchvision.models")
    _check_known(
        "torchvision", name, models.list_models(module=models), "torchvision.models.list_models(torchvision.models)"
    )
    if channels not in (1, RGB):
        raise UserError.one(OPTION, f"torchvision:{name} takes images of 1 or 3 channels, not {channels}; try timm:NAME")
    net: nn.Module = models.get_model(name, weights=None, **_torchvision_options(name, size))
    if not split_off_classifier(net):
        raise UserError.one(OPTION, f"torchvision:{name} has no classifier that could be taken off")
    return Backbone(net, repeat=RGB // channels)


def _torchvision_options(name: str, size: tuple[int, int]) -> dict[str, Any]:
    """What some of torchvision's constructors must know: the size of the images, and to leave out auxiliary losses."""
    if name.startswith("vit_"):
        if size[0] != size[1]:
            raise ValueError("torchvision's vision transformers take square images only")
        return {"image_size": size[0]}
    if name.startswith("maxvit"):
        return {"input_size": size}
    if name in ("googlenet", "inception_v3"):
        return {"aux_logits": False, "init_weights": True}
    return {}


def _check_known(package: str, name: str, known: Sequence[str], how_to_list: str) -> None:
    if name in known:
        return
    close = difflib.get_close_matches(name, known, n=5, cutoff=0.5)
    meant = f"; close to it: {', '.join(close)}" if close else ""
    what = (
        f'{package}:{name} is not known{meant}; python -c "import {package}; print({how_to_list})" lists all {len(known)}'
    )
    raise UserError.one(OPTION, what)


def _try_out(backbone: Backbone, name: str, channels: int, size: tuple[int, int]) -> int:
    """Run `backbone` on two images in both modes; return its number of features and freeze what does not reach them.

    Must come before BatchNorm is made global: then a worker that fails here leaves no other waiting. Buffers and the
    global random state are left as they were.
    """
    x_BCHW = torch.linspace(0.0, 1.0, 2 * channels * size[0] * size[1]).view(2, channels, *size)
    buffers = {key: value.clone() for key, value in backbone.named_buffers()}
    with torch.random.fork_rng(devices=[]):
        state = torch.get_rng_state()
        _freeze_unused(backbone, _checked(backbone.train()(x_BCHW)))
        draws = not torch.equal(state, torch.get_rng_state())
        with torch.no_grad():
            for key, value in backbone.named_buffers():
                value.copy_(buffers[key])
            features_BF = _checked(backbone.eval()(x_BCHW))
    backbone.train()
    if not torch.isfinite(features_BF).all():
        raise ValueError("its features are not finite")
    if draws:
        warnings.warn(f"{OPTION}: {name} draws random numbers, so runs cannot be repeated exactly", stacklevel=3)
    return features_BF.shape[1]


def _checked(output: Any) -> torch.Tensor:
    """`output`, if it is a row of features for each of two images."""
    if isinstance(output, torch.Tensor) and output.dim() == 2 and output.shape[0] == 2 and output.shape[1] > 0:
        return output
    shape = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
    raise ValueError(f"gives {shape} for 2 images instead of one row of features each")


def _freeze_unused(backbone: nn.Module, features_BF: torch.Tensor) -> None:
    parameters = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(features_BF.sum(), parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)


def _reason(error: Exception) -> str:
    """The first line of an error, or its kind where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__
