"""Measuring any torch module on any images from Python, without a run specification.

Legend: N images, C channels, H height, W width.
"""

from __future__ import annotations

import copy
import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from afa_dist.config import EvaluateRun, ScalingConfig, ThreatConfig
from afa_dist.config.fields import radius
from afa_dist.data.image_set import ImageSet
from afa_dist.errors import Problem, UserError
from afa_dist.evaluation.executor import OnProgress
from afa_dist.evaluation.subject import Subject, subject_problems, weights_hash
from afa_dist.runtime.evaluate import evaluate
from afa_dist.runtime.evaluation_checks import Prepared, attack_problems
from afa_dist.runtime.placement import Placement


def measure(
    net: nn.Module,
    images_NCHW: torch.Tensor | np.ndarray,
    labels_N: torch.Tensor | np.ndarray,
    *,
    eps: float | str,
    norm: Literal["linf", "l2"] = "linf",
    attacks: Sequence[str] | str = ("standard",),
    classes: Sequence[str] = (),
    seed: int = 0,
    batch_size: int = 250,
    device: str = "cpu",
    folder: Path | str = "",
    on_progress: OnProgress = lambda progress: None,
) -> dict[str, Any]:
    """Accuracy of `net`, clean and attacked, as `jobs/evaluate.py` measures it; returns what its summary.json holds.

        summary = measure(net, images, labels, eps=8 / 255, attacks=["autoattack"])
        print(summary["accuracies"]["autoattack"])

    Args:
        net: pixels in [0, 1] (N, C, H, W) to logits (N, K).
        images_NCHW: pixels, float in [0, 1] or uint8.
        labels_N: whole numbers from 0 to K - 1.
        eps: radius on the [0, 1] scale, or text such as "8/255".
        attacks: names as for `jobs/evaluate.py --attacks`, as a list or as text with commas.
        classes: names of the K classes; their numbers if empty.
        folder: where finished attacks are kept, and the same call goes on after a kill; empty = nowhere.

    Raises:
        UserError: all that is wrong with images, labels, network and attacks.
    """
    images_NCHW, labels_N = torch.as_tensor(images_NCHW), torch.as_tensor(labels_N)
    names = attacks.split(",") if isinstance(attacks, str) else attacks
    problems = [*_image_problems(images_NCHW, labels_N)]
    if device != "cpu" and not (device.startswith("cuda") and torch.cuda.is_available()):
        problems.append(Problem("device", f"{device!r} is not possible here; use cpu, or cuda where there is a GPU"))
    if problems:
        raise UserError(problems)
    net = copy.deepcopy(net).cpu().eval()  # the caller's stays what and where it is
    test = ImageSet(images_NCHW.cpu(), labels_N.long().cpu(), tuple(classes))
    if not classes:
        test = dataclasses.replace(test, classes=tuple(map(str, range(_count_classes(net, test.pixels(slice(1)))))))
    subject = Subject(net, weights_hash(net, type(net).__qualname__), {})
    with tempfile.TemporaryDirectory() as temporary:
        run = EvaluateRun(
            model=type(net).__qualname__,
            runs_dir=str(folder or temporary),
            name="measured",
            threat=ThreatConfig(norm=norm, eps=radius(eps)),
            attacks=tuple(name.strip() for name in names),
            seed=seed,
            batch_size=batch_size,
            scaling=ScalingConfig(workers=0),
        )
        problems = [*subject_problems(subject, "net", test), *attack_problems(run, len(test.classes))]
        if test.classes and int(labels_N.max()) >= len(test.classes):
            problems.append(Problem("labels", f"reach to {int(labels_N.max())}; there are {len(test.classes)} classes"))
        if problems:
            raise UserError(problems)
        placement = Placement(0, device != "cpu", torch.get_num_threads())
        return evaluate(run, Prepared(subject, test), placement, on_progress)


def _count_classes(net: nn.Module, x_1CHW: torch.Tensor) -> int:
    """How many logits there are; 0 if that is not to be seen, which is told later."""
    try:
        with torch.no_grad():
            logits = net(x_1CHW)
    except Exception:  # whatever a stranger's code raises; it is called, and told, again
        return 0
    return logits.shape[1] if isinstance(logits, torch.Tensor) and logits.dim() == 2 else 0


def _image_problems(images_NCHW: torch.Tensor, labels_N: torch.Tensor) -> Iterator[Problem]:
    shape = tuple(images_NCHW.shape)
    if images_NCHW.dim() != 4:
        yield Problem("images", f"have shape {shape}; give (images, channels, height, width)")
        return
    if shape[0] == 0:
        yield Problem("images", "are none; give at least one")
    elif images_NCHW.dtype != torch.uint8:
        low, high = float(images_NCHW.min()), float(images_NCHW.max())
        if not (low >= 0 and high <= 1):  # NaN as well
            hint = "divide by 255" if high > 1.5 else "leave normalisation to the network"
            yield Problem("images", f"have pixels from {low:g} to {high:g}; they must lie in [0, 1]: {hint}")
    if tuple(labels_N.shape) != shape[:1]:
        yield Problem("labels", f"have shape {tuple(labels_N.shape)}; give one for each of the {shape[0]} images")
    elif labels_N.is_floating_point() or (len(labels_N) and int(labels_N.min()) < 0):
        yield Problem("labels", "must be whole numbers from 0 on")
