"""A trained classifier as a folder: model.safetensors and config.json. Loading it executes nothing from the folder."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from afa_dist.config import FinetuneRun, ModelConfig
from afa_dist.config.fields import to_mapping
from afa_dist.errors import UserError
from afa_dist.files import write_json, write_tensors
from afa_dist.models.build import DataShape, build_classifier
from afa_dist.models.networks import Classifier

FORMAT = 1

WEIGHTS = "model.safetensors"

CONFIG = "config.json"


@dataclasses.dataclass(frozen=True)
class ExportedClassifier:
    """A classifier, and the settings it was made with (data, attack, ...)."""

    net: Classifier
    config: Mapping[str, Any]


def save_classifier(folder: Path, weights: Mapping[str, torch.Tensor], run: FinetuneRun, shape: DataShape) -> None:
    """Write the weights of a training run, and what is needed to build its network."""
    config = {
        "format": FORMAT,
        "model": to_mapping(run.model),
        "shape": dataclasses.asdict(shape),
        "data": to_mapping(run.data),
        "threat": {"norm": run.attack.norm, "eps": run.attack.eps},
        "seed": run.seed,
    }
    write_classifier(folder, weights, config)


def write_classifier(folder: Path, weights: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> None:
    """Write weights and configuration; weights first, so that a folder with a config.json is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / WEIGHTS, {name: _single(tensor) for name, tensor in weights.items()})
    write_json(folder / CONFIG, config)


def load_classifier(folder: Path) -> ExportedClassifier:
    """Load what `save_classifier` wrote, in evaluation mode on the CPU.

    Raises:
        UserError: no such folder, files missing, damaged, or not ours.
    """
    config = read_config(folder)
    try:
        shape = DataShape(
            channels=config["shape"]["channels"],
            mean=tuple(config["shape"]["mean"]),
            std=tuple(config["shape"]["std"]),
            classes=tuple(config["shape"]["classes"]),
            size=_size(config["shape"]),
        )
        net = build_classifier(ModelConfig(**config["model"]), shape)
        net.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError.one("model", f"{folder} does not hold a whole model ({str(error).splitlines()[0]})") from error
    return ExportedClassifier(net.eval(), config)


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of an exported model."""
    try:
        config = json.loads((folder / CONFIG).read_text())
    except (OSError, ValueError) as error:
        what = f"{folder} holds no exported model (config.json); give a finished fine-tuning run or its model/ folder"
        if (folder / "checkpoints").is_dir():
            what += " (a pre-training run has features and no classifier: jobs/finetune.py --init makes one from it)"
        raise UserError.one("model", what) from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise UserError.one("model", f"{folder / CONFIG} was not written by this version of afa-dist")
    return config


def _size(shape: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width; the first exports did not record them, and held only networks that take any size."""
    height, width = shape.get("size", DataShape.size)
    return height, width


def _single(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
