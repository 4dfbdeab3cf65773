"""The network that is measured: one of ours, timm's, or any function that makes one.

    RUN or FOLDER             what a fine-tuning run exported; an address likewise
    timm:NAME                 timm's pre-trained model (from the hub, or its cache), pixel statistics as timm records them
    package.module:function   called without arguments; gives a module from pixels in [0, 1] to logits

Only what the person names is executed: nothing in an exported folder is, and pickles and ONNX files are refused.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from afa_dist.address import is_address
from afa_dist.data.image_set import ImageSet
from afa_dist.errors import Problem, TrainingError, UserError
from afa_dist.files import sha256
from afa_dist.models.export import load_classifier
from afa_dist.models.norm import PixelNormalise
from afa_dist.training.mirroring import brought_here

TIMM = "timm:"
_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")

_REFUSED = {
    ".onnx": "an ONNX file has no gradients to attack it by; give the module it came from (package.module:function)",
    ".pt": "a pickle executes code when it is opened; give a function that makes the module (package.module:function)",
}
_REFUSED |= dict.fromkeys((".pth", ".pkl", ".ckpt", ".tar"), _REFUSED[".pt"])


@dataclasses.dataclass(frozen=True)
class Subject:
    """net: pixels in [0, 1] (N, C, H, W) to logits (N, K), in evaluation mode. sha256: of its weights.
    config: the settings it was made with; empty for a network that is not ours."""

    net: nn.Module
    sha256: str
    config: Mapping[str, Any]

    def answers(self, test: ImageSet) -> list[float] | None:
        """Logits of a few images, of a network that is not ours: its code may change while its weights do not. None for
        ours, and where it does not repeat itself."""
        if self.config or len(test) == 0:
            return None
        x = test.pixels(torch.arange(min(4, len(test))))
        with torch.no_grad():
            first, second = (self.net(x).flatten() for _ in range(2))
        return first.tolist() if torch.equal(first, second) else None


def same_answers(one: list[float] | None, other: list[float] | None) -> bool:
    """Whether they are equal up to the rounding of other machines."""
    if not one or not other:
        return True
    return len(one) == len(other) and torch.allclose(torch.tensor(one), torch.tensor(other), rtol=1e-3, atol=1e-3)


def is_foreign(model: str) -> bool:
    """Whether `model` names a network that is not a folder of ours."""
    return not is_address(model) and (model.startswith(TIMM) or _FUNCTION.fullmatch(model) is not None)


def load_subject(model: str) -> Subject:
    """The network that `model` names, on the CPU.

    Raises:
        UserError: there is none, or none that can be attacked.
    """
    if not model:
        what = "missing; give the run directory of a fine-tuning run, an exported folder, timm:NAME or module:function"
        raise UserError.one("model", what)
    suffix = Path(model).suffix.lower()
    if suffix in _REFUSED:
        raise UserError.one("model", f"{model}: {_REFUSED[suffix]}")
    if is_foreign(model):
        net = _timm(model.removeprefix(TIMM)) if model.startswith(TIMM) else _made_by(model)
        return Subject(net.eval(), weights_hash(net, model), {})
    if re.fullmatch(r"[\w./-]+\.py:[A-Za-z_]\w*", model):
        raise UserError.one(
            "model", f"{model}: name the module, not its file: {model.replace('.py:', ':').replace('/', '.')}"
        )
    folder = model_folder(model)
    inside = [name for name in ("finetune", "baseline") if (folder / name / "model" / "config.json").exists()]
    if inside and not (folder / "config.json").exists():
        raise UserError.one("model", f"{model} is a pipeline; name one of its models: {model.rstrip('/')}/{inside[0]}")
    if not is_address(model) and not folder.exists():
        raise UserError.one("model", f"{folder} holds no exported model: there is no such folder")
    exported = load_classifier(folder)
    return Subject(exported.net, sha256(folder / "model.safetensors"), exported.config)


def model_folder(model: str) -> Path:
    """The exported model in a run directory, or the folder itself; one that lies at an address is copied here first.

    Raises:
        UserError: the address does not answer.
    """
    try:
        folder = brought_here(model, checkpoints=False).path
    except TrainingError as error:
        raise UserError.one("model", str(error)) from error
    return folder / "model" if (folder / "model" / "config.json").exists() else folder


def subject_problems(subject: Subject, model: str, test: ImageSet, *, attacked: bool = True) -> Iterator[Problem]:
    """Whether the network takes such images and tells so many classes apart. attacked: whether it must have gradients."""
    shape = subject.config.get("shape")
    if shape and len(shape["classes"]) != len(test.classes):
        told = len(shape["classes"])
        yield Problem("data.name", f"has {len(test.classes)} classes, the model in {model} tells {told} apart")
        return
    if shape and shape["channels"] != test.shape[0]:
        taken = shape["channels"]
        yield Problem("data.name", f"has images with {test.shape[0]} channels, the model in {model} takes {taken}")
        return
    if len(test) == 0:
        return
    x = test.pixels(torch.arange(min(2, len(test))))
    seen = x.clone()
    try:
        with torch.no_grad():
            logits = subject.net(seen)
    except Exception as error:  # whatever a stranger's code raises
        what = f"{model} fails on images of {' x '.join(map(str, test.shape))} pixels: {_first_line(error)}"
        hint = "; data.image_size resizes images of folders and parquet" if attacked else ""
        yield Problem("model", what + hint)
        return
    if not isinstance(logits, torch.Tensor) or logits.dim() != 2 or len(logits) != len(x):
        shown = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        yield Problem("model", f"{model} gives {shown} for {len(x)} images, not one row of logits for each")
    elif logits.shape[1] != len(test.classes):
        yield Problem("model", f"{model} tells {logits.shape[1]} classes apart, the images have {len(test.classes)}")
    elif not bool(torch.isfinite(logits).all()):
        yield Problem("model", f"{model} gives logits that are NaN or infinite for the first images")
    elif not torch.equal(seen, x):
        yield Problem("model", f"{model} changes the images that it is given; let it work on a copy")
    elif attacked and not _has_gradient(subject.net, x):
        yield Problem("model", f"{model} gives no gradients of its logits by the pixels, which attacks follow")


def _has_gradient(net: nn.Module, x_NCHW: torch.Tensor) -> bool:
    """Whether autograd connects logits and pixels (the gradient itself may be 0)."""
    x = x_NCHW.clone().requires_grad_(True)
    try:
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(net(x).sum(), x, allow_unused=True)
    except RuntimeError:
        return False
    return gradient is not None


def _made_by(name: str) -> nn.Module:
    module_name, _, function = name.partition(":")
    with _importing_from_here():
        try:
            made = getattr(importlib.import_module(module_name), function)()
        except Exception as error:  # whatever a stranger's code raises
            what = f"{name} could not be called: {type(error).__name__}: {_first_line(error)}"
            raise UserError.one("model", what) from error
    if not isinstance(made, nn.Module):
        raise UserError.one("model", f"{name} gives a {type(made).__name__}, not a torch module")
    return made


@contextlib.contextmanager
def _importing_from_here() -> Iterator[None]:
    """A script does not look for modules in the working directory by itself."""
    sys.path.insert(0, str(Path.cwd()))
    try:
        yield
    finally:
        sys.path.pop(0)


def _timm(name: str) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise UserError.one("model", f"{TIMM}{name} needs timm: pip install 'afa-dist[timm]'") from error
    try:
        net = timm.create_model(name, pretrained=True)
    except Exception as error:  # unknown names, no such weights, no connection: each has an exception of its own
        raise UserError.one("model", f"{TIMM}{name} cannot be loaded: {_first_line(error)}") from error
    settings = net.pretrained_cfg
    return nn.Sequential(PixelNormalise(tuple(settings["mean"]), tuple(settings["std"])), net)


def weights_hash(net: nn.Module, name: str) -> str:
    """SHA-256 over the name and all weights and buffers."""
    digest = hashlib.sha256(name.encode())
    for key, tensor in sorted(net.state_dict().items()):
        digest.update(repr((key, str(tensor.dtype), tuple(tensor.shape))).encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
