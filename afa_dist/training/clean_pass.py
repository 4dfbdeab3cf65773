"""One pass of the clean images for attack and loss, where both would make the same.

Legend: B images of this worker, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from afa_dist.attacks.mode import BnPolicy
from afa_dist.models.surgery import has_batch_statistics

Forward = Callable[[torch.Tensor], Any]


class CleanPass:
    """Outputs of the clean images with their graph, kept from before the attack until the loss takes them.

    They are made in the mode of training, in which DDP and autocast see them as they see every outer pass.
    """

    def __init__(self) -> None:
        self._images: torch.Tensor | None = None
        self._output: Any = None

    def make(self, forward: Forward, clean_BCHW: torch.Tensor) -> Any:
        """`forward(clean_BCHW)`, and keep it. Weights must stay as they are until it is taken."""
        with torch.enable_grad():
            self._images, self._output = clean_BCHW, forward(clean_BCHW)
        return self._output

    def drop(self) -> None:
        self._images = self._output = None

    def both(self, forward: Forward, x_adv_BCHW: torch.Tensor, clean_BCHW: torch.Tensor) -> Any:
        """`forward` of both halves, adversarial before clean; of the first alone if the second is kept, but once."""
        images, output = self._images, self._output
        self.drop()  # its graph is gone after one backward pass, and weights may move then (AWP)
        if images is not clean_BCHW:
            return forward(torch.cat([x_adv_BCHW, clean_BCHW]))
        return _joined(forward(x_adv_BCHW), output)


def _joined(first: Any, second: Any) -> Any:
    """Two tensors, or two named tuples of them, one after the other along their first dimension."""
    if isinstance(first, torch.Tensor):
        return torch.cat([first, second])
    return type(first)(*(torch.cat(pair) for pair in zip(first, second, strict=True)))


def same_in_attack(net: nn.Module, attack_bn: BnPolicy) -> bool:
    """Whether images give in the outer pass what they give in the attack: nothing normalises by the batch in either."""
    layers = [module for module in net.modules() if has_batch_statistics(module)]
    return not layers or (attack_bn == "eval" and not any(layer.training for layer in layers))
