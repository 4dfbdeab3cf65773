"""Published weights of the common CIFAR definitions of ResNet and WideResNet, loaded into our `Classifier`.

A state dict of such a definition maps to ours name by name. What differs is renamed:

    in the file                                        here
    module., model., backbone., encoder., net.,        (taken off, however many: wrappers' names)
    network., 0., 1. in front of a name
    fc.*, linear.*                                     linear.*
    <block>.downsample.*                               <block>.shortcut.*         (torchvision's name; ResNet)
    <block>.shortcut.*                                 <block>.convShortcut.*     (WideResNet)
    sub_block1.*                                       left out: TRADES carries this stage but never runs it
    mean, std, mu, sigma (also normalize.mean, ...)    left out: our pixel statistics stay; see below
    num_batches_tracked                                taken if there; old files lack it

Pixel statistics belong to the network: a file trained with others than `net.encoder.normalise` holds gives wrong
predictions. Where the file records them they are compared, with a warning; weights that take pixels in [0, 1] as they
are, as most robust ones do, need model.normalise none.

Only tensors are read: a mapping that is already in memory, or a .safetensors file. Pickles execute code when they are
opened and are refused.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from afa_dist.errors import Problem, UserError
from afa_dist.models.networks import Classifier
from afa_dist.models.resnet import ResNet
from afa_dist.models.wide_resnet import WideResNet

OPTION = "init"
WRAPPERS = re.compile(r"^(?:(?:module|model|backbone|encoder|net|network|[01])\.)+")
STATISTICS = re.compile(r"(?:^|\.)(mean|std|mu|sigma)$")
SHOWN = 4
"""How many names of a kind a message lists."""


def load_published(net: Classifier, source: Mapping[str, torch.Tensor] | Path | str) -> None:
    """Load a published state dict, or the .safetensors file `source` that holds one, into `net`, in place.

    Raises:
        UserError: the file is a pickle, unreadable, or its names and shapes are not those of `net`; then `net` is
            unchanged.
    """
    backbone = net.encoder.backbone
    if not isinstance(backbone, ResNet | WideResNet):
        what = "published weights can be loaded into resnets and wrn-D-K only; timm and torchvision name theirs otherwise"
        raise UserError.one(OPTION, what)
    tensors = source if isinstance(source, Mapping) else _read(Path(source))
    found = _renamed(tensors, wide=isinstance(backbone, WideResNet))
    wanted = {**backbone.state_dict(), **{f"linear.{name}": value for name, value in net.linear.state_dict().items()}}
    problems = [*_differences(found, wanted)]
    if problems:
        raise UserError(problems)
    _compare_statistics(net, tensors)
    backbone.load_state_dict({**backbone.state_dict(), **{k: v for k, v in found.items() if not k.startswith("linear.")}})
    net.linear.load_state_dict({name: found[f"linear.{name}"] for name in net.linear.state_dict()})


def _read(path: Path) -> dict[str, torch.Tensor]:
    if path.suffix != ".safetensors":
        raise UserError.one(
            OPTION,
            f"{path} is not a .safetensors file; pickles (.pt, .pth, .ckpt, .bin) can execute code and are not opened. "
            "Where you trust the file, convert it: torch.load(path, weights_only=True), then safetensors.torch.save_file",
        )
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError.one(OPTION, f"{path} cannot be read ({str(error).splitlines()[0]})") from error


def _renamed(tensors: Mapping[str, torch.Tensor], wide: bool) -> dict[str, torch.Tensor]:
    """`tensors` under our names, without those that have no place here.

    Raises:
        UserError: two tensors claim one name.
    """
    found: dict[str, torch.Tensor] = {}
    origin: dict[str, str] = {}
    for given, tensor in tensors.items():
        name = _our_name(given, wide)
        if name is None:
            continue
        if name in found:
            raise UserError.one(OPTION, f"{origin[name]} and {given} are both {name}; remove the copy that is not meant")
        found[name], origin[name] = tensor, given
    return found


def _our_name(given: str, wide: bool) -> str | None:
    """Our name for a tensor that the file calls `given`, or None if it is left out."""
    name = WRAPPERS.sub("", given)
    if STATISTICS.search(name) or name.startswith("sub_block1."):
        return None
    name = re.sub(r"^fc\.", "linear.", name)
    if wide:
        # Some files hold the shortcut as a sequence of one convolution.
        return re.sub(r"\.shortcut\.(?:0\.)?", ".convShortcut.", name)
    return name.replace(".downsample.", ".shortcut.")


def _differences(found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> list[Problem]:
    """Why `found` is not a state dict with the names and shapes of `wanted`, one line for each kind of mistake."""
    missing = [name for name in wanted if name not in found and not name.endswith(".num_batches_tracked")]
    unexpected = [name for name in found if name not in wanted]
    shapes = [
        f"{name} {tuple(found[name].shape)} instead of {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in found and found[name].shape != value.shape
    ]
    kinds = {"missing": missing, "not expected": unexpected, "of another shape": shapes}
    return [
        Problem(OPTION, f"{len(names)} {kind}: {_few(names)}; does model.arch name the network of the file?")
        for kind, names in kinds.items()
        if names
    ]


def _few(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _compare_statistics(net: Classifier, tensors: Mapping[str, torch.Tensor]) -> None:
    """Warn if the file records other pixel statistics than `net` uses, or none to compare its own with."""
    ours = {"mean": net.encoder.normalise.mean_C, "std": net.encoder.normalise.std_C}
    as_they_are = bool((ours["mean"] == 0).all() and (ours["std"] == 1).all())
    if not as_they_are and not any(STATISTICS.search(name) for name in tensors):
        warnings.warn(
            f"{OPTION}: the file does not say how pixels were normalised for its network; here they are, with mean "
            f"{_values(ours['mean'])} and std {_values(ours['std'])}; if it takes pixels from 0 to 1 as they are, set "
            "model.normalise none",
            stacklevel=3,
        )
    for name, tensor in tensors.items():
        match = STATISTICS.search(name)
        if match is None:
            continue
        which = "mean" if match[1] in ("mean", "mu") else "std"
        here = ours[which].double().cpu()
        given = tensor.detach().double().cpu().flatten()
        if given.shape != here.shape or not torch.allclose(given, here, atol=1e-3):
            warnings.warn(
                f"{OPTION}: the network was trained with {name} {_values(given)}, this one has {_values(here)}; "
                "predictions will be wrong unless it is built with the same pixel statistics",
                stacklevel=3,
            )


def _values(tensor: torch.Tensor) -> str:
    return ", ".join(f"{value:.4g}" for value in tensor[:SHOWN].tolist())
