"""The aids of training act where they say, and nowhere else."""

import dataclasses

import pytest
import torch
from safetensors.torch import load_file

from afa_dist.config import (
    AwpConfig,
    ClassifierAttackConfig,
    DataConfig,
    EmaConfig,
    FinetuneRun,
    ModelConfig,
    ScheduleConfig,
    TrackingConfig,
    ValidationConfig,
)
from afa_dist.data.catalogue import load_splits
from afa_dist.distributed import World
from afa_dist.training.job import train
from afa_dist.training.run_dir import RunDirectory

BASE = FinetuneRun(
    mode="full",
    data=DataConfig(train_limit=400, held_out=130),
    model=ModelConfig(width=8),
    attack=ClassifierAttackConfig(eps=0.1, steps=1),
    schedule=ScheduleConfig(epochs=4, batch_size=64),
    validation=ValidationConfig(steps=2),
    tracking=TrackingConfig(log_every_steps=1, tensorboard=False),
)
STEPS = 16


@pytest.fixture(scope="module")
def splits():
    return load_splits(BASE.data)


@pytest.fixture(scope="module")
def outcome(splits, tmp_path_factory):
    """Trains BASE with changes; gives the losses of all steps, the validations and the directory."""

    def run(**changes):
        made = dataclasses.replace(BASE, **changes)
        directory = RunDirectory(tmp_path_factory.mktemp("run"))
        directory.create(made, {})
        train(made, splits, directory, World(), on_row=lambda row: None)
        rows = directory.metrics()
        losses = [row["loss"] for row in rows if row["phase"] == "train"]
        validations = [(row["clean_acc"], row["robust_acc"]) for row in rows if row["phase"] == "validation"]
        assert len(losses) == STEPS
        return losses, validations, directory

    return run


@pytest.fixture(scope="module")
def plain(outcome):
    return outcome()


@pytest.mark.parametrize("bn", ["copied", "recomputed"])
def test_averaging_changes_what_is_measured_and_exported_but_not_training(bn, outcome, plain):
    losses, validations, directory = outcome(ema=EmaConfig(decay=0.9, bn=bn))
    assert losses == plain[0]
    assert validations != plain[1]
    best = directory.checkpoints.best()
    exported = load_file(directory.model / "model.safetensors")
    assert all(torch.equal(exported[name], value) for name, value in best.averaged.items())
    same = [torch.equal(best.averaged[name], value) for name, value in best.model.items() if name.endswith("weight")]
    assert not any(same)
    statistics = [name for name in best.model if name.endswith(("running_mean", "running_var"))]
    copied = [torch.equal(best.averaged[name], best.model[name]) for name in statistics]
    assert all(copied) if bn == "copied" else not any(copied)


def test_weight_perturbation_sets_in_when_it_is_time(outcome, plain):
    losses, _, _ = outcome(awp=AwpConfig(gamma=0.02, start=0.5))
    half = STEPS // 2
    assert losses[:half] == plain[0][:half]
    # The perturbed weights' loss is what a step reports from then on.
    assert losses[half] > plain[0][half]
    assert losses[half + 1 :] != plain[0][half + 1 :]


def test_eps_warm_up_weakens_early_attacks_only(outcome, plain):
    losses, _, directory = outcome(attack=dataclasses.replace(BASE.attack, warmup=0.5))
    radii = [row["eps"] for row in directory.metrics() if row["phase"] == "train"]
    assert radii[0] == 0 and radii[STEPS // 2 :] == [0.1] * (STEPS // 2)
    assert losses[0] < plain[0][0]
