"""What training costs: forward passes of the network, the unit in which methods are compared.

A pass whose gradient is taken costs about three times one without. Nearly all passes of training have one (not those of
clean keys or clean predictions in an attack, nor the loss of a frozen extractor), so the count is a fair measure of time.
It holds for networks with BatchNorm; without it attack and loss share the pass of the clean images, which is not taken off
here, so that a budget means the same for every network.
"""

from __future__ import annotations

import dataclasses
from typing import TypeVar

from afa_dist.config.data_section import DataConfig
from afa_dist.config.runs import PipelineRun
from afa_dist.config.training import FinetuneRun, PretrainRun, RobustRun

R = TypeVar("R", bound=RobustRun)


def passes_per_image(run: RobustRun) -> int:
    """Forward passes that one image costs when it is in a batch: those of the attack, then those of the loss."""
    attack = run.attack.gradient_steps
    if isinstance(run, PretrainRun):
        keys = run.method.keys if run.attack.keys == "as_loss" else "clean"
        target = run.attack.objective == "kl" or (run.attack.objective == "afa" and keys != "adversarial")
        loss = 1 if run.attack.eps == 0 and run.method.views == "same" else 2
    else:
        assert isinstance(run, FinetuneRun)
        attack = 0 if run.objective == "ce" else attack
        target = run.attack_objective != "ce"
        loss = 2 if run.objective == "trades" or run.afa_weight > 0 else 1
    attack += int(target and attack > 0)  # the clean images once, without gradient
    return attack + loss * (2 if run.awp.gamma > 0 else 1)


def with_budget(run: PipelineRun, passes: int, pretrain_share: float) -> PipelineRun:
    """`run` with as many epochs in each stage as `passes` forward passes an image allow.

    pretrain_share: part of them that goes to pre-training, if there is one. A baseline has all of them for itself. Epochs
    are whole, so small budgets are met roughly; `total_passes` says how. A run with AWP that sets in late costs a little
    less than counted.
    """
    if run.baseline is not None:
        run = dataclasses.replace(run, baseline=_with_epochs(run.baseline, passes))
    if run.pretrain is None:
        return dataclasses.replace(run, finetune=_with_epochs(run.finetune, passes))
    pretrain = _with_epochs(run.pretrain, passes * pretrain_share)
    rest = passes - total_passes(pretrain)
    return dataclasses.replace(run, pretrain=pretrain, finetune=_with_epochs(run.finetune, rest))


def images_of_epoch(data: DataConfig) -> float:
    """Images in an epoch for each real one: with generated images mixed in they are more."""
    mixed = data.generated is not None and data.generated_fraction < 1
    return 1 / (1 - data.generated_fraction) if mixed else 1.0


def total_passes(run: RobustRun) -> int:
    """Forward passes over the whole run, for each real training image: in these, runs with and without generated images are
    compared at the same cost."""
    return round(run.schedule.epochs * passes_per_image(run) * images_of_epoch(run.data))


def _with_epochs(run: R, passes: float) -> R:
    epochs = max(1, round(passes / (passes_per_image(run) * images_of_epoch(run.data))))
    return dataclasses.replace(run, schedule=dataclasses.replace(run.schedule, epochs=epochs))
