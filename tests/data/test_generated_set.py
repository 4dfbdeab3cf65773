"""Generated images as they are named on the command line: what fits is mixed in, what does not is refused by name."""

import dataclasses
import json
import shutil
import sys

import numpy as np
import pytest
import torch

from afa_dist.cli import evaluating, pipeline
from afa_dist.cli.training import main
from afa_dist.config import DataConfig, EvaluateRun, FinetuneRun
from afa_dist.data.catalogue import load_part, load_splits
from afa_dist.data.generated import load_generated
from afa_dist.errors import UserError
from tests.data.preparing import prepared

DIGITS = tuple("0123456789")


def make_set(folder, name="drawn", count=60, shape=(8, 8, 1), classes=DIGITS, form="parquet"):
    """A set of noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8)
    np.savez(folder / f"{name}.npz", image=pixels, label=np.arange(count) % len(classes))
    prepared(folder / f"{name}.npz", folder / name, classes=classes, shard_size=25, form=form)
    return folder / name


def test_a_set_is_a_part_of_its_own(tmp_path, digits):
    folder = make_set(tmp_path)
    config = DataConfig(generated=str(folder))
    splits = load_splits(config)
    assert len(splits.generated) == 60 and splits.generated.classes == digits.train.classes
    assert splits.real_fingerprint() == digits.fingerprint() != splits.fingerprint()
    assert set(splits.parts()) == {"train", "held_out", "test", "generated"}
    first = load_splits(dataclasses.replace(config, generated_limit=7)).generated
    assert torch.equal(first.images_NCHW, splits.generated.images_NCHW[:7])
    assert len(load_part(config, "held_out")) == len(digits.held_out)


def swap(folder):
    files = sorted(folder.glob("*.parquet"))
    files[2].replace(files[1])
    shutil.copy(files[0], files[2])


def flip(folder):
    """One bit of the pixels of one image."""
    file = folder / "train-00000-of-00003.parquet"
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 1
    file.write_bytes(content)


def test_what_does_not_fit_is_refused_by_name(tmp_path, digits):
    cases = {
        "large": ({"shape": (9, 9, 1)}, "images of 1 x 9 x 9 pixels, the real ones have 1 x 8 x 8$"),
        "colour": ({"shape": (8, 8, 3)}, "images of 3 x 8 x 8 pixels"),
        "few": ({"classes": tuple("abc")}, "has 3 classes, the real images have 10"),
        "other": ({"classes": tuple("0123456798")}, "class '9' of .* is '8' among the real images"),
    }
    for name, (wrong, words) in cases.items():
        with pytest.raises(UserError, match=words) as caught:
            load_generated(DataConfig(generated=str(make_set(tmp_path, name, **wrong))), digits.train)
        assert name in str(caught.value)
    unfinished = tmp_path / "run"
    unfinished.mkdir()
    (unfinished / "config.yaml").touch()
    with pytest.raises(UserError, match="not a finished set"):
        load_generated(DataConfig(generated=str(unfinished)), digits.train)
    with pytest.raises(UserError, match="not a folder"):
        load_generated(DataConfig(generated=str(tmp_path / "nothing")), digits.train)
    for name, harm, words in (
        ("lost", lambda f: (f / "train-00001-of-00003.parquet").unlink(), "lacks train-00001-of-00003.parquet"),
        ("more", lambda f: shutil.copy(f / "train-00000-of-00003.parquet", f / "train-x.parquet"), "holds train-x.parquet"),
        ("other rows", swap, "has 10 rows, its dataset.json says 25"),
        ("damaged", flip, "is not a whole Parquet file"),
    ):
        folder = make_set(tmp_path, name)
        harm(folder)
        with pytest.raises(UserError, match=words):
            load_generated(DataConfig(generated=str(folder)), digits.train)
    numbered = make_set(tmp_path, "numbered", classes=tuple("012"))  # labels alone, and not all of them
    assert load_generated(DataConfig(generated=str(numbered)), digits.train).classes == digits.train.classes


def finetune(monkeypatch, capsys, tmp_path, *words):
    fixed = ["--data.train_limit", "300", "--schedule.batch_size", "60", "--mode", "full", "--objective", "trades"]
    fixed += ["--model.width", "8", "--attack.steps", "1", "--attack.eps", "0.1", "--validation.steps", "1"]
    fixed += ["--scaling.threads", "1", "--tracking.tensorboard", "false", "--schedule.epochs", "1", "--runs_dir", tmp_path]
    monkeypatch.setattr(sys, "argv", ["finetune.py", *map(str, [*fixed, *words])])
    code = main(FinetuneRun, "finetune", "finetune.py", "")
    return code, "".join(capsys.readouterr())


def test_a_run_mixes_them_in_and_says_so(tmp_path, monkeypatch, capsys):
    folder = make_set(tmp_path)
    mixed = ["--data.generated", folder, "--data.generated_fraction", "0.75"]
    code, said = finetune(monkeypatch, capsys, tmp_path, *mixed, "--dry-run")
    assert code == 0, said
    assert "270 training, 30 held-out images, 60 generated images" in said
    assert "18 an epoch, 18 in all, 75.0 % of each batch generated" in said  # 270 / 0.25 / 60
    code, said = finetune(monkeypatch, capsys, tmp_path, *mixed)
    assert code == 0, said
    assert json.loads((tmp_path / "run/summary.json").read_text())["steps"] == 18
    code, said = finetune(monkeypatch, capsys, tmp_path, *mixed)
    assert code == 0 and "already finished" in said
    (tmp_path / "set").mkdir()
    (tmp_path / "set/summary.json").write_text('{"images": 3}')
    start = finetune(monkeypatch, capsys, tmp_path, "--init", tmp_path / "set", "--name", "other")
    assert start[0] == 2 and "is no training run" in start[1]
    code, said = finetune(monkeypatch, capsys, tmp_path)  # the same name, without them
    assert code == 2 and "images are not those" in said


def test_a_model_that_saw_other_images_is_warned_of(tmp_path, monkeypatch, capsys):
    folder = make_set(tmp_path)
    record = json.loads((folder / "dataset.json").read_text())
    for trained_on, warned in ((load_splits(DataConfig(train_limit=300)).real_fingerprint(), False), ("other", True)):
        (folder / "dataset.json").write_text(json.dumps({**record, "made_by": {"trained_on": trained_on}}))
        code, said = finetune(monkeypatch, capsys, tmp_path, "--data.generated", folder, "--dry-run")
        assert code == 0 and ("trained on other images" in said) == warned, said


def test_evaluations_take_no_part_in_it():
    """Neither by a recipe, nor by the command line of a pipeline, nor by what is recorded with a model."""
    data = {"name": "digits", "train_limit": 100, "generated": "somewhere", "generated_fraction": 0.5}
    for recipe, typed in (({"data": data}, {}), ({"finetune": {"data": data}}, {}), ({}, {"data": data})):
        values = pipeline.stage_values(recipe, typed)
        assert values["finetune"]["data"]["generated"] == "somewhere"
        assert values["evaluate"]["data"] == {"name": "digits", "train_limit": 100}
    with pytest.raises(UserError, match="measured on real images"):
        EvaluateRun(data=DataConfig(generated="somewhere"))
    assert evaluating.with_saved({"model": "nothing"}) == {"model": "nothing"}
