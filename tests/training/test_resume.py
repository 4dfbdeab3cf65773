"""A run that is stopped and started again ends as if it had never stopped."""

import dataclasses
import shutil

import pytest
import torch
import yaml

from afa_dist.config import (
    AverageConfig,
    AwpConfig,
    CheckpointConfig,
    ClassifierAttackConfig,
    ContrastiveAttackConfig,
    DataConfig,
    DiffusionRun,
    EmaConfig,
    FinetuneRun,
    GeneratedLabelsConfig,
    MethodConfig,
    ModelConfig,
    OptimiserConfig,
    PretrainRun,
    ScheduleConfig,
    TrackingConfig,
    UNetConfig,
    ValidationConfig,
)
from afa_dist.data.catalogue import load_splits
from afa_dist.distributed import World
from afa_dist.errors import UserError
from afa_dist.training.checkpoint import Checkpoint, DamagedCheckpoint
from afa_dist.training.checkpoint_store import CheckpointStore
from afa_dist.training.job import train
from afa_dist.training.run_dir import RunDirectory

ALL = {
    "schedule": ScheduleConfig(epochs=3, batch_size=64, warmup=0.33),
    "checkpoint": CheckpointConfig(every_steps=3),
    "tracking": TrackingConfig(log_every_steps=2, tensorboard=False),
}
SMALL = {
    **ALL,
    "data": DataConfig(train_limit=300, crop_padding=1, flip=True),
    "model": ModelConfig(width=8, projection_dim=16),
    "validation": ValidationConfig(steps=2),
}
RUNS = {
    "pretrain": PretrainRun(
        **SMALL, method=MethodConfig(keys="both"), attack=ContrastiveAttackConfig(eps=0.1, steps=2, warmup=0.66)
    ),
    "finetune": FinetuneRun(
        **SMALL,
        mode="full",
        attack=ClassifierAttackConfig(eps=0.1, steps=2),
        ema=EmaConfig(decay=0.9, bn="recomputed"),
    ),
    "joint": FinetuneRun(
        **SMALL,
        mode="full",
        objective="trades",
        afa_weight=0.5,
        attack=ClassifierAttackConfig(eps=0.1, algorithm="n-fgsm"),
        awp=AwpConfig(gamma=0.01, start=0.3),
        ema=EmaConfig(decay=0.9),
    ),
    "mixed": FinetuneRun(
        **{**SMALL, "data": DataConfig(train_limit=300, flip=True, generated="drawn", generated_fraction=0.4)},
        mode="full",
        objective="trades",
        attack=ClassifierAttackConfig(eps=0.1, steps=1),
        generated=GeneratedLabelsConfig(weight=0.5, label_smoothing=0.1),
    ),
    "diffusion": DiffusionRun(
        **ALL,
        data=DataConfig(train_limit=300, flip=True),
        network=UNetConfig(channels=8, multipliers=(1, 2), layers=1, attention=(4,), dropout=0.1),
        ema=AverageConfig(decay=0.9),
    ),
}


class Stop(Exception):
    pass


def stop_at(step):
    def on_row(row):
        if row["step"] >= step:
            raise Stop

    return on_row


@pytest.fixture(scope="module")
def splits():
    return load_splits(SMALL["data"])


@pytest.mark.parametrize("stage", RUNS)
def test_stopped_and_resumed_equals_undisturbed(stage, splits, tmp_path):
    run = RUNS[stage]
    if run.data.generated is not None:
        splits = dataclasses.replace(splits, generated=splits.test)  # any images will do
    whole = RunDirectory(tmp_path / "whole")
    whole.create(run, {})
    summary = train(run, splits, whole, World(), on_row=lambda row: None)

    cut = RunDirectory(tmp_path / "cut")
    cut.create(run, {})
    for step in (2, 5, 6, 10):  # before any checkpoint, in mid-epoch, at a checkpoint, late
        with pytest.raises(Stop):
            train(run, splits, cut, World(), on_row=stop_at(step))
    resumed = train(run, splits, cut, World(), on_row=lambda row: None)

    assert cut.metrics() == whole.metrics()
    assert {k: resumed[k] for k in ("best", "last", "steps")} == {k: summary[k] for k in ("best", "last", "steps")}
    a, b = (d.checkpoints.load(summary["steps"]) for d in (whole, cut))
    assert a.state == b.state
    for part in ("model", "optimiser", "averaged"):
        left, right = getattr(a, part), getattr(b, part)
        assert left.keys() == right.keys()
        assert all(torch.equal(left[name], right[name]) for name in left)
    assert a.optimiser  # momentum was there to compare
    assert bool(a.averaged) == (run.ema.decay > 0)


def test_two_threads_end_alike(splits, tmp_path):
    """With sizes of real runs: torch uses several threads only from some ten thousand numbers on."""
    torch.set_num_threads(2)
    run = dataclasses.replace(
        RUNS["pretrain"], model=ModelConfig(), schedule=ScheduleConfig(epochs=2, batch_size=128, warmup=0.5)
    )
    ends = []
    for name in ("one", "other"):
        directory = RunDirectory(tmp_path / name)
        directory.create(run, {})
        steps = train(run, splits, directory, World(), on_row=lambda row: None)["steps"]
        ends.append(directory.checkpoints.load(steps).model)
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_patience_ends_training_alike_after_a_stop(splits, tmp_path):
    """No validation of this run can get better: the learning rate is too small to change a prediction."""
    run = dataclasses.replace(
        RUNS["finetune"],
        optimiser=OptimiserConfig(lr=1e-12),
        schedule=ScheduleConfig(epochs=6, batch_size=64),
        validation=ValidationConfig(steps=2, patience=2),
        ema=EmaConfig(),
    )
    per_epoch = len(splits.train) // 64
    for name, stop in (("whole", None), ("cut", 3 * per_epoch)):
        directory = RunDirectory(tmp_path / name)
        directory.create(run, {})
        if stop:
            with pytest.raises(Stop):
                train(run, splits, directory, World(), on_row=stop_at(stop))
        summary = train(run, splits, directory, World(), on_row=lambda row: None)
        assert summary["stopped_early"]
        assert summary["steps"] == 3 * per_epoch  # the first, and two that are not better
        assert len([row for row in directory.metrics() if row["phase"] == "validation"]) == 3
        assert (directory.model / "model.safetensors").exists()


def test_a_damaged_newest_checkpoint_is_passed_over(splits, tmp_path):
    run = RUNS["finetune"]
    directory = RunDirectory(tmp_path / "run")
    directory.create(run, {})
    first = train(run, splits, directory, World(), on_row=lambda row: None)
    newest = directory.checkpoints.path(first["steps"]) / "model.safetensors"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    with pytest.warns(UserWarning, match="damaged checkpoint passed over"):
        second = train(run, splits, directory, World(), on_row=lambda row: None)
    assert second["last"] == first["last"]


def test_no_whole_checkpoint_is_an_error_not_a_fresh_start(splits, tmp_path):
    run = RUNS["finetune"]
    directory = RunDirectory(tmp_path / "run")
    directory.create(run, {})
    train(run, splits, directory, World(), on_row=lambda row: None)
    for step in directory.checkpoints.steps():
        (directory.checkpoints.path(step) / "manifest.json").unlink()
    with pytest.warns(UserWarning), pytest.raises(DamagedCheckpoint, match="none of the"):
        train(run, splits, directory, World(), on_row=lambda row: None)


def test_half_written_checkpoints_are_not_seen(splits, tmp_path):
    run = RUNS["finetune"]
    directory = RunDirectory(tmp_path / "run")
    directory.create(run, {})
    first = train(run, splits, directory, World(), on_row=lambda row: None)
    whole = directory.checkpoints.path(first["steps"])
    shutil.copytree(whole, whole.with_name(f".step-{999:08d}.tmp"))
    assert directory.checkpoints.steps()[-1] == first["steps"]


def fake(step, best):
    return Checkpoint(step, {"w": torch.ones(2)}, {}, {"best": {"step": best, "metrics": {}}})


def test_the_newest_and_the_best_they_know_are_kept(tmp_path):
    store = CheckpointStore(tmp_path)
    for step, best in ((1, 1), (2, 2), (3, 2), (4, 2), (5, 5), (6, 5)):
        store.save(fake(step, best))
        store.prune(keep_last=2)
    assert store.steps() == [5, 6]
    store.save(fake(7, 5))
    store.prune(keep_last=2)
    assert store.steps() == [5, 6, 7]


def test_damaged_newer_checkpoints_do_not_push_out_whole_ones(tmp_path):
    """Resumed from 1 because 9 is damaged: 9 must not count as one of the newest."""
    store = CheckpointStore(tmp_path)
    store.save(fake(1, 1))
    store.save(fake(9, 9))
    (store.path(9) / "model.safetensors").write_bytes(b"")
    with pytest.warns(UserWarning, match="passed over"):
        whole = store.newest()
    assert whole.step == 1
    store.set_aside_after(whole.step)
    for step in (2, 3, 4):
        store.save(fake(step, 1))
        store.prune(keep_last=2)
    assert store.steps() == [1, 3, 4]
    assert store.newest().step == 4
    assert (tmp_path / "step-00000009.damaged").is_dir()  # nothing is deleted that somebody may want to look at


def test_two_runs_in_one_directory_are_refused(tmp_path):
    directory = RunDirectory(tmp_path)
    second = RunDirectory(tmp_path).locked(patience_seconds=0.2)
    with directory.locked(), pytest.raises(UserError, match="in use by process"), second:
        pass
    with RunDirectory(tmp_path).locked(patience_seconds=0):
        pass


def test_a_record_from_before_an_option_was_there_is_continued_while_it_is_off(splits, tmp_path):
    run = RUNS["finetune"]
    directory = RunDirectory(tmp_path)
    directory.create(run, {})
    (tmp_path / "metrics.jsonl").touch()
    text = (tmp_path / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(text.replace("  keep_every_epochs: 0\n", ""))
    assert list(directory.problems(run)) == []
    # Of options that were added later, those that are on by themselves and whole sections are no difference either.
    record = yaml.safe_load(text)
    del record["generated"], record["data"]["generated"], record["data"]["generated_fraction"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(record))
    assert list(directory.problems(run)) == []
    weighed = dataclasses.replace(run, generated=GeneratedLabelsConfig(weight=0.5))
    assert "generated" in str(*directory.problems(weighed))
    (tmp_path / "config.yaml").write_text(text.replace("  keep_every_epochs: 0\n", ""))
    kept = dataclasses.replace(run, checkpoint=dataclasses.replace(run.checkpoint, keep_every_epochs=2))
    assert "keep_every_epochs" in str(*directory.problems(kept))
