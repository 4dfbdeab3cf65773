"""What a classifier is built on: the best features of its pre-training, kept as they are, and no others."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file

from afa_dist.config import (
    CheckpointConfig,
    ClassifierAttackConfig,
    ContrastiveAttackConfig,
    DataConfig,
    FinetuneRun,
    MethodConfig,
    OptimiserConfig,
    PretrainRun,
    ScheduleConfig,
)
from afa_dist.data.catalogue import load_splits
from afa_dist.distributed import World
from afa_dist.runtime.launch import launch
from afa_dist.runtime.placement import Placement
from afa_dist.training import robust
from afa_dist.training.initial import load_encoder
from afa_dist.training.job import data_shape, make_step
from afa_dist.training.preflight import directory_problems, init_problems
from afa_dist.training.run_dir import RunDirectory
from tests.training.test_resume import SMALL as BASE

SMALL = {
    **BASE,
    "data": DataConfig(train_limit=300),
    "schedule": ScheduleConfig(epochs=4, batch_size=64),
    "checkpoint": CheckpointConfig(keep_last=2),
}
PRETRAIN = PretrainRun(**SMALL, name="features", attack=ContrastiveAttackConfig(eps=0.1, steps=2))
LINEAR = FinetuneRun(
    **SMALL, name="classifier", mode="linear", init="features", attack=ClassifierAttackConfig(eps=0.1, steps=2)
)


@pytest.fixture(scope="module")
def splits():
    return load_splits(SMALL["data"])


def fit(run, splits):
    summary = launch(run, splits, Placement(workers=0, gpu=False, threads=1), lambda row: None)
    return RunDirectory.of(run), summary


def pretrained(folder, splits, **changes):
    return fit(dataclasses.replace(PRETRAIN, runs_dir=str(folder), **changes), splits)[0]


def test_the_linear_stage_keeps_the_features_it_was_given(splits, tmp_path):
    """All of the encoder, statistics of BatchNorm included; the classifier alone has changed."""
    features = pretrained(tmp_path, splits)
    run = dataclasses.replace(LINEAR, runs_dir=str(tmp_path), init=str(features.path))
    directory, _ = fit(run, splits)
    exported = load_file(directory.model / "model.safetensors")
    given = features.checkpoints.best().weights
    encoder = {name: value for name, value in given.items() if name.startswith("encoder.")}
    assert any("running_var" in name for name in encoder)
    assert {name for name in exported if name.startswith("encoder.")} == encoder.keys()
    assert all(torch.equal(exported[name], value) for name, value in encoder.items())
    fresh = make_step(dataclasses.replace(run, mode="full", init="scratch"), data_shape(splits), World()).net
    assert not torch.equal(exported["linear.weight"], fresh.linear.weight)


def test_the_best_validation_is_what_is_exported(splits, tmp_path):
    """The learning rate is such that the last validation is not the best."""
    run = dataclasses.replace(
        LINEAR, runs_dir=str(tmp_path), mode="full", init="scratch", objective="ce", optimiser=OptimiserConfig(lr=3.0)
    )
    directory, summary = fit(run, splits)
    validations = [row for row in directory.metrics() if row["phase"] == "validation"]
    best = max(validations, key=lambda row: row["clean_acc"])
    assert best["step"] < summary["steps"] and best["clean_acc"] > validations[-1]["clean_acc"]
    assert summary["best"]["step"] == best["step"]
    exported = load_file(directory.model / "model.safetensors")
    kept = directory.checkpoints.load(best["step"]).weights
    assert exported.keys() == kept.keys() and all(torch.equal(exported[name], kept[name]) for name in kept)


@pytest.mark.parametrize(("objective", "chosen"), [("ce", 2), ("pgd", 3)])
def test_clean_training_is_chosen_by_clean_accuracy_and_adversarial_by_robust(
    objective, chosen, splits, tmp_path, monkeypatch
):
    """Validations in which the two disagree; of equals the one better in the other counts."""
    measured = iter([(0.8, 0.1), (0.9, 0.2), (0.7, 0.3), (0.6, 0.3)])
    monkeypatch.setattr(robust, "validate", lambda *_: dict(zip(("clean_acc", "robust_acc"), next(measured), strict=True)))
    run = dataclasses.replace(LINEAR, runs_dir=str(tmp_path), mode="full", init="scratch", objective=objective)
    directory, summary = fit(run, splits)
    steps = [row["step"] for row in directory.metrics() if row["phase"] == "validation"]
    assert summary["best"]["step"] == steps[chosen - 1]


def test_joint_training_takes_the_projection_head_along(splits, tmp_path):
    features = pretrained(tmp_path, splits)
    run = dataclasses.replace(LINEAR, mode="full", afa_weight=1.0, init=str(features.path))
    net = make_step(run, data_shape(splits), World()).net
    weights = features.checkpoints.best().weights
    head = {name.removeprefix("head."): value for name, value in weights.items() if name.startswith("head.")}
    assert head and head.keys() == net.head.state_dict().keys()
    assert all(torch.equal(net.head.state_dict()[name], value) for name, value in head.items())


def test_a_head_that_does_not_fit_is_found_before_the_start_and_a_fresh_one_is_told_of(splits, tmp_path):
    features = pretrained(tmp_path, splits)
    run = dataclasses.replace(LINEAR, runs_dir=str(tmp_path), mode="full", afa_weight=1.0, init=str(features.path))
    assert list(init_problems(run, splits)) == []
    other = dataclasses.replace(run, model=dataclasses.replace(run.model, projection_dim=17))
    assert [problem.where for problem in init_problems(other, splits)] == ["init"]
    plain = dataclasses.replace(other, afa_weight=0.0)  # has no head
    assert list(init_problems(plain, splits)) == []
    with pytest.warns(UserWarning, match=r"aligned its projection layer.*method\.layer"):
        assert not list(init_problems(dataclasses.replace(run, method=MethodConfig(layer="penultimate")), splits))


def test_a_run_goes_on_only_with_the_weights_that_it_was_started_from(splits, tmp_path):
    features = pretrained(tmp_path, splits)
    run = dataclasses.replace(LINEAR, runs_dir=str(tmp_path), init=str(features.path))
    directory, _ = fit(run, splits)
    assert list(directory_problems(run)) == []
    before = features.checkpoints.best().weights
    features.path.rename(tmp_path / "aside")
    assert pretrained(tmp_path, splits).path == features.path  # the same once more: the same weights
    assert list(directory_problems(run)) == []
    features.path.rename(tmp_path / "aside-too")
    pretrained(tmp_path, splits, seed=1)
    (problem,) = directory_problems(run)
    assert problem.where == "init" and "other weights" in problem.what and str(directory.path) in problem.what
    # One that left nothing behind is started with what there is now, and goes on with that.
    begun = RunDirectory.of(dataclasses.replace(run, name="begun"))
    begun.create(run, {"init_sha256": "of other weights"})
    again, _ = fit(dataclasses.replace(run, name="begun"), splits)
    assert again.path == begun.path and list(directory_problems(dataclasses.replace(run, name="begun"))) == []
    load_encoder(net := make_step(run, data_shape(splits), World()).net, str(tmp_path / "aside"))
    assert all(torch.equal(net.state_dict()[name], value) for name, value in before.items() if name.startswith("encoder."))
    recorded = json.loads((directory.path / "provenance.json").read_text())["starts"][0]
    assert len(recorded["init_sha256"]) == 64
