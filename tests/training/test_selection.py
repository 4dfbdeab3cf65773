"""Which checkpoints are the best ones, against sorting all validations; and what a run keeps."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afa_dist.config import (
    CheckpointConfig,
    ClassifierAttackConfig,
    FinetuneRun,
    ModelConfig,
    ScheduleConfig,
    TrackingConfig,
    ValidationConfig,
)
from afa_dist.distributed import World
from afa_dist.training.job import train
from afa_dist.training.run_dir import RunDirectory
from afa_dist.training.selection import Selection

ACCURACIES = st.sampled_from([0.0, 0.25, 0.5])
SCORES = st.lists(st.fixed_dictionaries({"clean_acc": ACCURACIES, "robust_acc": ACCURACIES}), min_size=1, max_size=12)


@given(scores=SCORES, keep=st.integers(1, 4), robust=st.booleans(), cut=st.integers(0, 12))
def test_the_best_of_all_validations_so_far_are_known(scores, keep, robust, cut):
    """By the accuracy that counts, then by the other one, then by age; also when resumed in between."""
    key = ("robust_acc", "clean_acc") if robust else ("clean_acc", "robust_acc")
    selection = Selection(key, keep)
    for step, metrics in enumerate(scores):
        kept = selection.take(step, metrics)
        ranked = sorted(range(step + 1), key=lambda s: (*(scores[s][name] for name in key), s), reverse=True)
        assert [entry.step for entry in selection.top] == ranked[:keep]
        assert kept == (step in ranked[:keep])
        values = [tuple(scores[s][name] for name in key) for s in range(step + 1)]
        assert selection.stale == step - values.index(max(values))
        if step == cut:
            state, selection = selection.state(), Selection(key, keep)
            selection.load(state)


def test_a_state_from_before_there_was_more_than_one_best():
    selection = Selection(("robust_acc", "clean_acc"), keep=2)
    selection.load({"best": {"step": 3, "metrics": {"robust_acc": 0.5}}, "last": {}, "stale": 0})
    assert selection.best.step == 3


def test_a_run_keeps_the_newest_the_best_and_those_to_look_back_at(digits, tmp_path):
    run = FinetuneRun(
        mode="full",
        model=ModelConfig(width=8, norm="group"),
        attack=ClassifierAttackConfig(eps=0.1, steps=1),
        schedule=ScheduleConfig(epochs=12, batch_size=64, warmup=0),
        validation=ValidationConfig(steps=1),
        checkpoint=CheckpointConfig(every_epochs=12, keep_last=2, keep_best=3, keep_every_epochs=5),
        tracking=TrackingConfig(tensorboard=False),
    )
    images, labels = digits.train.images_NCHW[:128], digits.train.labels_N[:128]
    few = dataclasses.replace(digits, train=dataclasses.replace(digits.train, images_NCHW=images, labels_N=labels))
    directory = RunDirectory(tmp_path / "run")
    directory.create(run, {})
    train(run, few, directory, World(), on_row=lambda row: None)
    rows = [row for row in directory.metrics() if row["phase"] == "validation"]
    ranked = sorted(rows, key=lambda row: (row["robust_acc"], row["clean_acc"], row["step"]), reverse=True)
    best = {row["step"] for row in ranked[:3]}
    steps = directory.checkpoints.steps()
    assert best | {10, 20, 24} <= set(steps)
    assert len(steps) <= len(best | {10, 20, 24}) + 1  # the one before the last
    for step in steps:
        assert directory.checkpoints.load(step).step == step
    assert_damaged_bests_give_way(directory.checkpoints, [row["step"] for row in ranked[:3]], steps[-1])


def assert_damaged_bests_give_way(store, ranked, last):
    for step, following in zip(ranked, [*ranked[1:], last], strict=True):
        assert store.best().step == step
        if step == last:
            return  # whoever damages that one changes what is known of the others
        (store.path(step) / "state.json").write_text("{}")
        with pytest.warns(UserWarning, match=f"{store.path(step).name}.*is damaged|is damaged.*{store.path(step).name}"):
            assert store.best().step == following
        store.set_aside(step)
