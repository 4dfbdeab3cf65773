"""The network of a pre-training run, as it ended and as it began.

Legend: B images, C channels, H height, W width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from afa_dist.config import MethodConfig, ModelConfig
from afa_dist.distributed import derive_seed
from afa_dist.errors import UserError
from afa_dist.models.build import DataShape, build_contrastive
from afa_dist.models.networks import ContrastiveNet
from afa_dist.training.initial import is_weights_file, pretraining_directory


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """net: with the best weights. untrained: with those that the run's seed draws, before the first step.
    sha256: of the best weights. Both in evaluation mode on the CPU."""

    place: str
    net: ContrastiveNet
    untrained: ContrastiveNet
    sha256: str
    temperature: float


def init_of(config: Mapping[str, Any]) -> str:
    """The pre-training run that a fine-tuning run with this specification started from; empty if it was none."""
    init = config.get("init")
    return init if isinstance(init, str) and init != "scratch" and not is_weights_file(init) else ""


def load_pretrained(place: str, shape: DataShape) -> Pretrained:
    """Load the best checkpoint of the pre-training run at `place` (a folder or an address).

    shape: of the images to be looked at; the statistics of pixels that the weights were trained with come with them.

    Raises:
        UserError: there is no such run, or its weights do not fit its specification or these images.
    """
    directory = pretraining_directory(place)
    checkpoint, config = directory.checkpoints.best(), directory.read_config()
    if checkpoint is None or not isinstance(config.get("method"), dict) or "init" in config:
        raise UserError.one("pretrained", f"{place} holds no checkpoint of a pre-training run; give its run directory")
    try:
        model, method = ModelConfig(**config["model"]), MethodConfig(**config["method"])
        untrained = fresh(model, method, shape, int(config["seed"]))
        net = fresh(model, method, shape, int(config["seed"]))
        net.load_state_dict(dict(checkpoint.weights))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        what = f"{place} does not fit the images of data.name, or was not written by this version"
        raise UserError.one("pretrained", f"{what} ({str(error).splitlines()[0]})") from error
    sha256 = directory.checkpoints.weights_sha256(checkpoint)
    return Pretrained(place, net, untrained, sha256, method.temperature)


def fresh(model: ModelConfig, method: MethodConfig, shape: DataShape, seed: int) -> ContrastiveNet:
    """The network that pre-training with `seed` begins with: the numbers that `make_step` draws, in its order."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("weights", seed))
        net = build_contrastive(model, method, shape)
    return net.eval()
