"""Mistakes are all found before anything is written: exit code 2, one line each, no traceback."""

import subprocess
import sys
from pathlib import Path

import pytest

from afa_dist.cli import training
from afa_dist.config import PretrainRun
from tests.data.test_parquet import damage_label, damage_single, damage_truncate, good

ROOT = Path(__file__).parents[2]


def job(script, *arguments, cwd):
    command = [sys.executable, str(ROOT / "jobs" / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


def pretrain(monkeypatch, capsys, *arguments):
    """The job in this process: what it prints to stderr and its exit code."""
    monkeypatch.setattr(sys, "argv", ["pretrain.py", *map(str, arguments)])
    code = training.main(PretrainRun, "pretrain", "pretrain.py", "")
    return code, capsys.readouterr().err


def check_message(code, message, *words):
    assert code == 2
    assert "Traceback" not in message
    assert len(message.splitlines()) <= 10
    for word in words:
        assert word in message, message


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--attack.epss", "0.1"], ["--attack.epss", "did you mean --attack.eps"]),
        (["--attack.eps", "-0.1"], ["attack.eps", "-0.1", "at least 0"]),
        (["--attack.eps", "300"], ["attack.eps", "300", "8/255"]),
        (["--attack.eps", "2"], ["attack.eps", "at most 1"]),
        (["--attack.eps", "8/0"], ["attack.eps", "8/255"]),
        (["--validation.eps", ":"], ["validation.eps", "8/255", "or null"]),
        (["--attack.eps", "nan"], ["attack.eps", "nan"]),
        (["--method.temperature", "0"], ["method.temperature", "above 0"]),
        (["--data.name", "mnist"], ["data.name", "mnist", "digits, prepared, parquet, cifar10, cifar100"]),
        (["--data.name", "parquet", "--data.path", "/nowhere"], ["data.path", "/nowhere"]),
        (["--data.name", "cifar10", "--data.path", "."], ["data.path", "cifar-10-batches-py"]),
        (["--data.name", "parquet"], ["data.path", "missing"]),
        (["--schedule.batch_size", "5000"], ["schedule.batch_size", "5000", "1294"]),
        (["--schedule.batch_size", "ten"], ["schedule.batch_size", "ten", "whole number"]),
        (["--schedule.epochs"], ["--schedule.epochs", "needs a value"]),
        (["--config", "missing.yaml"], ["--config", "missing.yaml"]),
        (["--data.held_out", "1437"], ["data.held_out", "1437"]),
        (["--scaling.workers", "3"], ["schedule.batch_size", "128", "multiple of 48"]),
        (["--name", "../x"], ["name", "../x"]),
        (["stray"], ["stray"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_each_mistake_names_its_option(arguments, words, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, message = pretrain(monkeypatch, capsys, *arguments)
    check_message(code, message, *words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (damage_truncate, ["train-00000-of-00002.parquet", "not a whole Parquet file"]),
        (damage_label, ["label 7", "out of range"]),
        (damage_single, ["class 'owl' has one image"]),
    ],
)
def test_damaged_data_names_its_file(damage, words, monkeypatch, capsys, tmp_path):
    data, work = tmp_path / "data", tmp_path / "work"
    data.mkdir()
    work.mkdir()
    good(data)
    damage(data)
    monkeypatch.chdir(work)
    code, message = pretrain(monkeypatch, capsys, "--data.name", "parquet", "--data.path", data)
    check_message(code, message, str(data), *words)
    assert list(work.iterdir()) == []


def test_several_mistakes_are_reported_together_by_the_real_command(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    good(data)
    damage_truncate(data)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("attack: {eps: -1, stepz: 3}\nmethod: {temperature: 0}\n")
    work = tmp_path / "work"
    work.mkdir()
    arguments = ["--config", recipe, "--data.name", "parquet", "--data.path", data, "--optimizer.lr", "1", "--seed", "x"]
    done = job("pretrain.py", *arguments, cwd=work)
    check_message(
        done.returncode,
        done.stderr,
        "6 mistakes",
        "attack.eps",
        "attack.stepz",
        "method.temperature",
        "--optimizer.lr",
        "seed",
        "train-00000-of-00002.parquet",
    )
    assert list(work.iterdir()) == []


@pytest.mark.parametrize("text", ["a: [", "- 1\n- 2", "\x00", "1: 2"])
def test_a_recipe_that_is_no_recipe(text, monkeypatch, capsys, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text)
    check_message(*pretrain(monkeypatch, capsys, "--config", recipe), "--config", "recipe.yaml")


def test_pipeline_reports_a_shared_mistake_once(tmp_path):
    done = job(
        "pipeline.py", "--config", ROOT / "recipes/digits.yaml", "--data.name", "x", "--attack.eps", "-1", cwd=tmp_path
    )
    check_message(done.returncode, done.stderr, "\n  data.name: 'x'")
    assert done.stderr.count("data.name") == 1
    assert list(tmp_path.iterdir()) == []


def test_finetuning_and_evaluation_need_what_they_build_on(tmp_path):
    done = job("finetune.py", "--init", "runs/none", cwd=tmp_path)
    check_message(done.returncode, done.stderr, "init", "runs/none")
    done = job("finetune.py", cwd=tmp_path)
    check_message(done.returncode, done.stderr, "mode", "init")
    done = job("evaluate.py", "--attacks", "pgd-0,foo", cwd=tmp_path)
    check_message(done.returncode, done.stderr, "'pgd-0'", "'foo'")
    done = job("evaluate.py", cwd=tmp_path)
    check_message(done.returncode, done.stderr, "model", "missing")
    assert list(tmp_path.iterdir()) == []


def test_another_specification_in_the_same_directory_is_refused(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    small = ["--data.train_limit", "64", "--data.held_out", "16", "--schedule.batch_size", "32", "--schedule.epochs", "2"]
    small += ["--model.width", "8", "--attack.steps", "1", "--tracking.tensorboard", "false", "--scaling.threads", "1"]
    assert pretrain(monkeypatch, capsys, *small)[0] == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    code, message = pretrain(monkeypatch, capsys, *small, "--attack.eps", "4/255", "--seed", "5")
    check_message(code, message, "attack.eps: recorded", "seed: recorded 0, now 5", "another name")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    check_message(*pretrain(monkeypatch, capsys, *small, "--scaling.precision", "fp64"), "scaling.precision")
    assert pretrain(monkeypatch, capsys, *small)[0] == 0  # the same one is taken up again
    assert pretrain(monkeypatch, capsys, *small, "--tracking.log_every_steps", "1")[0] == 0
