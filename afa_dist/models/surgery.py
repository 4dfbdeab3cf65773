"""Changes to networks of other packages, in place: no dropout, no classifier, BatchNorm over all workers.

Legend: B images, C channels, H height, W width.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from afa_dist.models.norm import GlobalBatchNorm2d


class GlobalBatchNormAct2d(GlobalBatchNorm2d):
    """timm's `BatchNormAct2d` over the batches of all ranks: BatchNorm, then its `drop`, then its `act`.

    A subclass, not a sequence, so that parameters and buffers keep their names.
    """

    def __init__(self, features: int, eps: float, momentum: float | None, drop: nn.Module, act: nn.Module) -> None:
        super().__init__(features, eps, momentum)
        self.drop = drop
        self.act = act

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return self.act(self.drop(super().forward(x_BCHW)))


def globalise_batch_norm(net: nn.Module) -> None:
    """Replace every `nn.BatchNorm2d` and timm `BatchNormAct2d` of `net` by its global form.

    Weights, buffers, eps, momentum, mode and `requires_grad` are kept; a layer used in two places stays one layer.
    Left alone are layers that the global form does not cover: without weights, without running statistics, or with
    the cumulative average (momentum None).
    """
    replaced: dict[nn.Module, nn.Module] = {}
    for parent in [*net.modules()]:
        # The raw table: `named_children` lists a layer that has two names under the first one only.
        for name, child in [*parent._modules.items()]:
            if child is None:
                continue
            if child not in replaced and (new := _global_form(child)) is not None:
                replaced[child] = new
            if child in replaced:
                setattr(parent, name, replaced[child])


def _global_form(layer: nn.Module) -> GlobalBatchNorm2d | None:
    """The global form of `layer`, or None where there is none, or it is global already."""
    if not isinstance(layer, nn.BatchNorm2d) or not layer.affine or not layer.track_running_stats or layer.momentum is None:
        return None
    new: GlobalBatchNorm2d
    if type(layer) is nn.BatchNorm2d:
        new = GlobalBatchNorm2d(layer.num_features, layer.eps, layer.momentum)
    elif type(layer).__name__ == "BatchNormAct2d":  # by name: timm need not be installed
        drop, act = layer.get_submodule("drop"), layer.get_submodule("act")
        new = GlobalBatchNormAct2d(layer.num_features, layer.eps, layer.momentum, drop, act)
    else:
        return None
    new.load_state_dict(layer.state_dict())
    old_parameters = dict(layer.named_parameters())
    for name, parameter in new.named_parameters():
        parameter.requires_grad_(old_parameters[name].requires_grad)
    return new.train(layer.training)


def has_batch_statistics(layer: nn.Module) -> bool:
    """Whether `layer` itself normalises by statistics of its batch in training mode."""
    return isinstance(layer, _BatchNorm) or hasattr(layer, "running_var")


def batch_statistics_left(net: nn.Module) -> list[str]:
    """Kinds of layers in `net`, sorted, whose statistics are those of one worker's batch."""
    kinds = set()
    for module in net.modules():
        if has_batch_statistics(module) and not isinstance(module, GlobalBatchNorm2d):
            kinds.add(type(module).__name__)
    return sorted(kinds)


def disable_dropping(net: nn.Module) -> None:
    """Set every probability of dropping something to 0, wherever the layers of `net` keep it.

    Layers for dropping hold it as `p`, `prob` or `drop_prob`; attention and whole networks as numbers with "drop" in
    their names (`dropout`, `attention_dropout`, `drop_rate`).
    """
    for module in net.modules():
        kind = type(module).__name__
        drops = "Drop" in kind or kind == "StochasticDepth"
        for name, value in [*vars(module).items()]:
            is_probability = "drop" in name or (drops and name in ("p", "prob"))
            if is_probability and isinstance(value, float):
                setattr(module, name, 0.0)


def split_off_classifier(net: nn.Module) -> bool:
    """Replace the last linear layer of `net` by the identity, or the last 1x1 convolution where there is no linear one.

    The latter is how SqueezeNet classifies; its pooling comes after. False where there is neither.
    """
    named = [*net.named_modules()]
    linear = [name for name, module in named if isinstance(module, nn.Linear)]
    pointwise = [name for name, module in named if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1)]
    if not linear and not pointwise:
        return False
    parent, _, child = (linear or pointwise)[-1].rpartition(".")
    setattr(net.get_submodule(parent), child, nn.Identity())
    return True
