"""A trained diffusion model as a folder in diffusers' own layout."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch

from afa_dist.config import DiffusionRun
from afa_dist.config.fields import to_mapping
from afa_dist.data.catalogue import DataSplits
from afa_dist.diffusion.denoiser import build_denoiser
from afa_dist.diffusion.pipeline import EdmPipeline
from afa_dist.files import write_json
from afa_dist.models.build import DataShape

TRAINED_ON = "trained_on.json"


def save_pipeline(
    folder: Path, weights: Mapping[str, torch.Tensor], run: DiffusionRun, splits: DataSplits, shape: DataShape
) -> None:
    """Write the denoiser with `weights` as a pipeline folder, aside first: a folder of that name is whole."""
    net = build_denoiser(run.network, run.edm, shape)
    net.load_state_dict(dict(weights))
    aside = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(aside, ignore_errors=True)
    EdmPipeline(net.unet, net.scheduler).save_pretrained(aside)
    write_json(
        aside / TRAINED_ON,
        {
            "data": to_mapping(run.data),
            "fingerprint": splits.real_fingerprint(),
            "images": len(splits.train),
            "classes": list(splits.train.classes),
            "seed": run.seed,
            "label_dropout": run.edm.label_dropout,
        },
    )
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)
