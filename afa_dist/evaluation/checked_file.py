"""Tensors and a text in one file that appears whole and says whether it still is.

Safetensors, with the text and a hash over text and tensors in its metadata.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from afa_dist.files import write_aside


class DamagedOutcome(ValueError):
    """A file that is not what was written."""


def write_checked(path: Path, text: str, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write both, from whatever device the tensors are on."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_aside(path, lambda aside: save_file(plain, aside, {"text": text, "sha256": _digest(text, plain)}))


def read_checked(path: Path) -> tuple[str, dict[str, torch.Tensor]]:
    """Text and tensors.

    Raises:
        DamagedOutcome: they are not what was written.
        OSError: the disk does not give them.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        text = metadata["text"]
        whole = metadata["sha256"] == _digest(text, tensors)
    except KeyError as error:
        raise DamagedOutcome(f"{path} was written by an earlier version, or is damaged") from error
    except (SafetensorError, ValueError, TypeError) as error:
        raise DamagedOutcome(f"{path} is damaged: {(str(error).splitlines() or ['unreadable'])[0]}") from error
    if not whole:
        raise DamagedOutcome(f"{path} is damaged: its content has another hash")
    return text, tensors


def _digest(text: str, tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
