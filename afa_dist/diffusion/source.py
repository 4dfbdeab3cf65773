"""What images are drawn from: a run of ours, or the folder of any pipeline of diffusers. Nothing in it is executed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline
from diffusers.utils import logging as diffusers_logging

from afa_dist.diffusion.export import TRAINED_ON
from afa_dist.diffusion.pipeline import EdmPipeline
from afa_dist.errors import TrainingError, UserError
from afa_dist.files import sha256
from afa_dist.training.mirroring import brought_here

INDEX = "model_index.json"
"""diffusers' name of the file that says what a pipeline consists of."""


@dataclasses.dataclass(frozen=True)
class Source:
    """pipeline: on the CPU. sha256: over all its files. trained_on: what a model of ours was trained on, else empty."""

    pipeline: Any
    sha256: str
    trained_on: Mapping[str, Any]


def pipeline_folder(model: str) -> Path:
    """The pipeline in a run directory, or the folder itself; one at an address is copied here first.

    Raises:
        UserError: there is none.
    """
    if not model:
        raise UserError.one("model", "missing; give the run directory of generate.py train, or a pipeline's folder")
    try:
        found = brought_here(model, checkpoints=False).path
    except TrainingError as error:
        raise UserError.one("model", str(error)) from error
    for folder in (found / "model", found):
        if (folder / INDEX).is_file():
            return folder
    if (found / "config.yaml").exists():
        raise UserError.one("model", f"{model} holds no diffusion model (yet): finish generate.py train, or give its run")
    raise UserError.one("model", f"{model} is neither a run of generate.py train nor a pipeline's folder (with {INDEX})")


def trained_on(folder: Path) -> dict[str, Any]:
    """What a model of ours was trained on; empty for others."""
    try:
        found = json.loads((folder / TRAINED_ON).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def open_source(model: str) -> Source:
    """Load what `model` names.

    Raises:
        UserError: there is none, or it holds code, pickles or parts of packages that are not here.
    """
    folder = pipeline_folder(model)
    try:
        index = json.loads((folder / INDEX).read_text())
        cls = EdmPipeline if index.get("_class_name") == EdmPipeline.__name__ else DiffusionPipeline
        pipeline = _loaded(cls, folder)
    except Exception as error:  # diffusers' loaders raise whatever their parts do
        line = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        what = f"{folder} cannot be loaded ({line}); it must be whole, with weights as safetensors and no code of its own"
        raise UserError.one("model", what) from error
    pipeline.set_progress_bar_config(disable=True)
    return Source(pipeline, _hash(folder), trained_on(folder))


def _loaded(cls: Any, folder: Path) -> Any:
    """A pipeline without diffusers' bars and advice."""
    level = diffusers_logging.get_verbosity()
    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    try:
        return cls.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, trust_remote_code=False, low_cpu_mem_usage=False
        )
    finally:
        diffusers_logging.enable_progress_bar()
        diffusers_logging.set_verbosity(level)


def _hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != TRAINED_ON):
        digest.update(f"{path.relative_to(folder)}\0{sha256(path)}\0".encode())
    return digest.hexdigest()
