"""Mistakes of a search: found before anything starts, all together, in words that say what to change."""

import sys
from pathlib import Path

import pytest
import yaml

from afa_dist.cli import tuning
from afa_dist.config import ThreatConfig
from afa_dist.runtime.space_file import read_space
from afa_dist.tuning.parameters import Choice, Range

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "digits-joint.yaml"
GOOD = "finetune.beta: {loguniform: [0.5, 20]}"


@pytest.fixture(autouse=True)
def without_a_cluster(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def tune(monkeypatch, capsys, folder, space, *arguments, name="space.yaml"):
    """jobs/tune.py in this process, as far as a dry run goes: its exit code and what it prints."""
    (folder / name).write_text(space)
    words = ["--space", folder / name, "--config", RECIPE, "--runs_dir", folder / "runs", "--dry-run", *arguments]
    monkeypatch.setattr(sys, "argv", ["tune.py", *map(str, words)])
    code = tuning.main("tune.py", "")
    assert not (folder / "runs").exists()
    return code, *capsys.readouterr()


SPACES = [
    ("finetune.bete: {uniform: [1, 2]}", ["finetune.bete", "did you mean finetune.beta", "finetune.afa_weight"]),
    ("pretrain.method.temperature: {uniform: [0.1, 1]}", ["pretrain.method.temperature", "is not an option"]),
    ("method.temperature: {uniform: [0, 1]}", ["method.temperature", "takes 0", "above 0"]),
    ("finetune.beta: {uniform: [-1, 1]}", ["finetune.beta", "takes -1", "at least 0"]),
    ("finetune.attack.steps: {uniform: [1, 8]}", ["finetune.attack.steps", "takes 5.326", "whole number"]),
    ("finetune.schedule.epochs: [4, 8]", ["finetune.schedule.epochs", "cannot be searched", "length"]),
    ("finetune.objective: [trades, mart]", ["finetune.objective", "takes mart", "pgd, ce, trades"]),
    ("finetune.attack.eps: {uniform: [0.1, 8]}", ["finetune.attack.eps", "takes 8", "8/255"]),
    ("evaluate.threat.eps: [0.1, 0.2]", ["evaluate.threat.eps", "cannot be searched", "threat model is the same"]),
    ("validation.steps: [1, 2]", ["validation.steps", "cannot be searched"]),
    ("seed: [0, 1]", ["seed", "luck"]),
    ("finetune.data.held_out: [10, 20]", ["finetune.data.held_out", "cannot be searched"]),
    ("finetune.beta: 3", ["finetune.beta", "is not a list of values or one of uniform"]),
    ("finetune.beta: {normal: [0, 1]}", ["finetune.beta", "is not a list of values"]),
    ("finetune.beta: {uniform: [2, 1]}", ["finetune.beta", "from 2 to 1"]),
    ("finetune.beta: {loguniform: [0, 1]}", ["finetune.beta", "greater than 0"]),
    ("finetune.beta: [1, 1]", ["finetune.beta", "twice"]),
    ("finetune.beta: []", ["finetune.beta", "must choose among"]),
    ("[1, 2]", ["space.yaml", "must map options"]),
    ("finetune.beta: [", ["space.yaml", "is not valid YAML"]),
    ("finetune.schedule.batch_size: [128, 5000]", ["schedule.batch_size", "5000", "1294"]),
    ("finetune.mode: [full, linear]", ["finetune.mode", "takes linear", "needs a pre-trained extractor"]),
]


@pytest.mark.parametrize(("space", "words"), SPACES, ids=[space for space, _ in SPACES])
def test_what_is_wrong_with_a_space(space, words, monkeypatch, capsys, tmp_path):
    code, _, message = tune(monkeypatch, capsys, tmp_path, space)
    assert code == 2
    assert "Traceback" not in message
    for word in words:
        assert word in message, message


PYTHON = [
    ("def space():\n    return 3\n", ["gives 3, not a mapping"]),
    ("x = 1\n", ["has no function space()"]),
    ("def space():\n    return {\n        'a': missing}\n", ["line 3", "NameError"]),
    ("def space(:\n", ["SyntaxError"]),
    ("from ray import tune\ndef space():\n    return {'finetune.beta': tune.randn(0, 1)}\n", ["has no bounds"]),
    (
        "from ray import tune\ndef space():\n    return {'finetune.beta': tune.qloguniform(0.5, 2, 0.5)}\n",
        ["finetune.beta", "has steps and a logarithm"],
    ),
    (
        "from ray import tune\ndef space():\n    return {'finetune.beta': tune.sample_from(lambda c: 1)}\n",
        ["is Function, whose values cannot be known before"],
    ),
]


@pytest.mark.parametrize(("space", "words"), PYTHON, ids=[words[-1] for _, words in PYTHON])
def test_what_is_wrong_with_a_space_in_python(space, words, monkeypatch, capsys, tmp_path):
    code, _, message = tune(monkeypatch, capsys, tmp_path, space, name="space.py")
    assert code == 2
    assert "Traceback" not in message
    for word in words:
        assert word in message, message


OPTIONS = [
    (["--finetune.beta", "3"], ["finetune.beta", "is in the space and on the command line (--finetune.beta)"]),
    (["--beta", "3"], ["finetune.beta", "is in the space and on the command line (--beta)"]),
    (["--search", "grid"], ["finetune.beta", "a grid needs choices"]),
    (["--search", "evolution"], ["search", "tpe, nsga2, random, grid"]),
    (["--require", "clean>80"], ["require", 'write "clean>=0.80"']),
    (["--final-attacks", "autoatack"], ["final_attacks", "did you mean"]),
    (["--pruning.rungs", "0.5,0.25"], ["pruning.rungs", "ascending numbers between 0 and 1"]),
    (["--validation.steps", "0"], ["validation.steps", "measures no robust accuracy"]),
    (["--evaluate.threat.eps", "0"], ["evaluate.threat.eps", "nothing to be robust against"]),
    (["--data.held_out", "0"], ["data.held_out", "no images to compare trials on"]),
    (["--scaling.workers", "2..4"], ["scaling.workers", "a range is not possible"]),
    (
        ["--scaling.workers", "64", "--finetune.schedule.batch_size", "1024"],
        ["scaling.workers", "64 workers x 1 CPU", "so "],
    ),
    (["--at-once", "99"], ["at_once", "99 trials of 1 worker x 1 CPU are 99 workers", "use at most"]),
    (["--runs_dir", "s3://bucket/runs"], ["runs_dir", "is no folder, which a search needs"]),
    (["--resume"], ["resume", "there is no search in"]),
    (["--baseline.lr", "1"], ["baseline"]),
    (["--max-trials", "0"], ["max_trials", "at least 1"]),
    (["--scaling.device", "gpu"], ["scaling.workers", "1 worker x 1 CPU and a GPU each", "0 GPUs"]),
    (["--search", "pbt", "--scaling.workers", "2"], ["scaling.workers", "search pbt"]),
    (["--search", "pbt", "--final", "retrain"], ["final", "cannot repeat a schedule"]),
]


@pytest.mark.parametrize(("arguments", "words"), OPTIONS, ids=[" ".join(arguments) for arguments, _ in OPTIONS])
def test_what_is_wrong_with_the_options(arguments, words, monkeypatch, capsys, tmp_path):
    code, _, message = tune(monkeypatch, capsys, tmp_path, GOOD, *arguments)
    assert code == 2
    assert "Traceback" not in message
    for word in words:
        assert word in message, message


def test_all_mistakes_are_told_together(monkeypatch, capsys, tmp_path):
    space = "finetune.bete: [1, 2]\nfinetune.beta: {uniform: [-1, 1]}\nseed: [1, 2]"
    code, _, message = tune(monkeypatch, capsys, tmp_path, space, "--data.held_out", "9999")
    assert code == 2
    for word in ("finetune.bete", "takes -1", "luck", "9999"):
        assert word in message, message


def test_a_dry_run_says_what_is_searched_and_what_stays_the_same(monkeypatch, capsys, tmp_path):
    code, shown, message = tune(monkeypatch, capsys, tmp_path, "finetune.attack.eps: {uniform: [0.1, 0.3]}")
    assert code == 0, message
    for word in ("0.1 to 0.3", "threat model, fixed: linf, eps 0.2", "no test image", "at 4, 8 epochs"):
        assert word in shown, shown


@pytest.mark.parametrize("file", sorted((ROOT / "tune_spaces").glob("*.py")), ids=lambda file: file.stem)
def test_the_spaces_that_come_with_it_fit_the_recipe_they_are_for(file, monkeypatch, capsys, tmp_path):
    recipe = "digits.yaml" if file.stem in ("temperature", "pretrain", "epsilon") else "digits-joint.yaml"
    words = ["--space", file, "--config", ROOT / "recipes" / recipe, "--runs_dir", tmp_path / "runs", "--dry-run"]
    monkeypatch.setattr(sys, "argv", ["tune.py", *map(str, words)])
    assert tuning.main("tune.py", "") == 0, capsys.readouterr().err


def test_ray_tunes_distributions_and_their_names_in_yaml_are_alike(tmp_path):
    python = """
from ray import tune
def space():
    return {"a": tune.uniform(0, 1), "b": tune.loguniform(0.1, 1), "c": tune.randint(1, 5),
            "d": tune.choice(["8/255", "x"]), "e": tune.quniform(0, 1, 0.25), "f": tune.lograndint(1, 9),
            "g": tune.grid_search([1, 2]), "h": [True, None]}
"""
    named = {
        "a": {"uniform": [0, 1]},
        "b": {"loguniform": [0.1, 1]},
        "c": {"randint": [1, 5]},
        "d": {"choice": ["8/255", "x"]},
        "e": {"quniform": [0, 1, 0.25]},
        "f": {"lograndint": [1, 9]},
        "g": {"grid_search": [1, 2]},
        "h": [True, None],
    }
    (tmp_path / "space.py").write_text(python)
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(named))
    found = read_space(str(tmp_path / "space.py"), ThreatConfig())
    assert found == read_space(str(tmp_path / "space.yaml"), ThreatConfig())
    assert found["c"] == Range(1, 4, whole=True)  # Ray's upper end is not included
    assert found["f"] == Range(1, 8, log=True, whole=True)
    assert found["e"] == Range(0, 1, step=0.25)
    assert found["d"] == Choice((8 / 255, "x"))
