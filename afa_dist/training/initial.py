"""What a fine-tuning run starts from: the best checkpoint of an earlier run, or a file with published weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import torch

from afa_dist.address import runs_root
from afa_dist.errors import TrainingError, UserError
from afa_dist.files import sha256
from afa_dist.models.networks import Classifier, JointNet
from afa_dist.models.published import load_published
from afa_dist.training.checkpoint import Checkpoint
from afa_dist.training.mirroring import brought_here
from afa_dist.training.run_dir import RunDirectory


def load_encoder(net: Classifier, init: str) -> None:
    """Load the encoder of the best checkpoint of the run `init` (its pixel statistics too), and for joint training the
    projection head, if that run had one; or published weights from a file, classifier and all.

    Raises:
        UserError: there is no checkpoint, or its weights do not fit.
    """
    if is_weights_file(init):
        load_published(net, runs_root(init))
        return
    checkpoint = _best(init)
    try:
        net.encoder.load_state_dict(_under("encoder.", checkpoint.weights))
        head = _under("head.", checkpoint.weights)
        if head and isinstance(net, JointNet) and net.head is not None:
            net.head.load_state_dict(head)
    except RuntimeError as error:
        what = f"the weights in {init} do not fit section model (its options must be those of the pre-training run)"
        raise UserError.one("init", what) from error


def initial_sha256(init: str) -> str:
    """SHA-256 of the file with the weights that `load_encoder` reads.

    A run that is started again under the same `init` must find these in its place: a path says where weights lie, not
    which.
    """
    if is_weights_file(init):
        return sha256(runs_root(init))
    return pretraining_directory(init).checkpoints.weights_sha256(_best(init))


def is_weights_file(init: str) -> bool:
    """Whether `init` means a file with published weights rather than a run directory."""
    return Path(init).suffix in (".safetensors", ".pt", ".pth", ".ckpt", ".bin")


def pretraining_directory(init: str) -> RunDirectory:
    """`init` as a run directory; like runs_dir, a relative path in a Ray job starts at the home directory.

    Raises:
        UserError: it lies at an address that does not answer.
    """
    try:
        return brought_here(init)
    except TrainingError as error:
        raise UserError.one("init", str(error)) from error


def _best(init: str) -> Checkpoint:
    checkpoint = pretraining_directory(init).checkpoints.best()
    if checkpoint is None:
        raise UserError.one("init", f"{init} holds no checkpoint; give the run directory of a finished pre-training run")
    return checkpoint


def _under(prefix: str, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def take_over(parent: Path, directory: RunDirectory) -> None:
    """Begin a run with the newest checkpoint of another one, as it is; what was best there is no measure here."""
    if directory.checkpoints.steps():
        return  # it has begun already
    checkpoint = RunDirectory(parent).checkpoints.newest()
    if checkpoint is None:
        raise TrainingError(f"{parent} has no checkpoint to go on from")
    state = {**checkpoint.state, "run": "", "best": None, "top": [], "stale": 0}
    directory.checkpoints.save(dataclasses.replace(checkpoint, state=state))
