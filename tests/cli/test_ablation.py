"""A grid: its variants, its budget, and that it goes on where it stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from afa_dist.cli.grid import cells_of, variants_of
from afa_dist.config import AblationConfig
from afa_dist.config.budget import total_passes
from afa_dist.errors import UserError

ROOT = Path(__file__).parents[2]

RECIPE = {
    "name": "grid",
    "data": {"train_limit": 300, "test_limit": 64},
    "model": {"width": 8},
    "attack": {"eps": 0.1, "steps": 1},
    "validation": {"steps": 1},
    "schedule": {"epochs": 1, "batch_size": 64},
    "tracking": {"tensorboard": False},
    "pretrain": {"method": {"keys": "both"}},
    "finetune": {},
    "baseline": {},
    "evaluate": {"attacks": ["pgd-2"]},
}
VARIANTS = {
    "ce": {"finetune": {"objective": "ce"}},
    "afa": {"title": "mine", "pretrain": {}, "finetune": {"mode": "linear"}, "baseline": {}},
}


def recipe(**ablation):
    return {**RECIPE, "ablation": ablation}


def test_a_variant_has_the_stages_that_it_names():
    cells = cells_of(recipe(variants=VARIANTS), {"attack": {"eps": 0.05}}, AblationConfig(seeds=(0, 7)))
    assert [(cell.variant, cell.seed) for cell in cells] == [("ce", 0), ("afa", 0), ("ce", 7), ("afa", 7)]
    ce, afa = cells[2:]
    assert ce.run.pretrain is None
    assert (ce.run.finetune.mode, ce.run.finetune.objective, ce.title) == ("full", "ce", "cross-entropy")
    assert afa.run.pretrain.method.keys == "both"  # from the recipe
    assert (afa.title, afa.run.finetune.mode, afa.run.finetune.seed) == ("mine", "linear", 7)
    assert afa.run.finetune.init.endswith("grid/afa/seed7/pretrain")
    assert {cell.run.finetune.attack.eps for cell in cells} == {0.05}  # typed options hold for all


def test_axes_are_combined_with_every_variant():
    axes = {"pretrain.method.keys": ["clean", "both"], "pretrain.method.layer": ["projection", "penultimate"]}
    found = variants_of({"grid": axes, "variants": {"a": {"seed": 1}, "b": None}})
    assert len(found) == 8
    assert found["a-keys=clean-layer=penultimate"] == {
        "seed": 1,
        "pretrain": {"method": {"keys": "clean", "layer": "penultimate"}},
    }
    assert list(variants_of({})) == ["recipe"]


def test_mistakes_of_all_variants_are_reported_by_name():
    bad = {"x": {"finetune": {"objectiv": "ce"}}, "y": {"pretrain": {"method": {"keys": "none"}}, "finetune": None}}
    with pytest.raises(UserError) as error:
        cells_of(recipe(variants=bad), {"seed": 3}, AblationConfig(only=("z",)))
    assert {p.where for p in error.value.problems} == {"ablation.only", "seed"}
    with pytest.raises(UserError) as error:
        cells_of(recipe(variants=bad), {}, AblationConfig())
    assert {p.where for p in error.value.problems} == {"x.finetune.objectiv", "y.pretrain.method.keys"}
    with pytest.raises(UserError, match=r"ablation\.grid: must map"):
        variants_of({"grid": {"seed": 3}})


def test_a_budget_makes_variants_cost_alike():
    cells = cells_of(recipe(variants=VARIANTS), {}, AblationConfig(seeds=(0,), budget=60, pretrain_share=0.5))
    costs = [total_passes(c.run.finetune) + (total_passes(c.run.pretrain) if c.run.pretrain else 0) for c in cells]
    assert costs == [60, 60]
    assert cells[0].run.finetune.schedule.epochs == 60


def command(tmp_path, *more):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe(variants=VARIANTS, seeds=[0, 1])))
    return [sys.executable, ROOT / "jobs/ablation.py", "--config", path, "--ablation.parallel", "2", *more]


def run(tmp_path, *more):
    return subprocess.run(command(tmp_path, *more), cwd=tmp_path, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_a_stopped_grid_goes_on_and_writes_its_report(tmp_path):
    started = subprocess.Popen(
        command(tmp_path), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    grid = tmp_path / "runs" / "grid"
    deadline = time.monotonic() + 120
    while not list(grid.glob("*/seed0/summary.json")):
        assert started.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(started.pid, signal.SIGKILL)  # as the machine would: the pipelines too
    started.wait()
    started.stdout.close()
    started.stderr.close()
    finished = {path: path.stat().st_mtime_ns for path in grid.glob("*/*/summary.json")}
    assert 0 < len(finished) < 4

    done = run(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in finished.items())  # not run again

    base = tmp_path / "results" / "digits" / "linf"
    record = json.loads((base / "grid.json").read_text())
    assert record["missing"] == []
    models = {
        "ce": ("ce", "cross-entropy", "cross-entropy", {"finetune"}),
        "afa": ("afa", "AFA + linear", "mine", {"pretrain", "finetune"}),
        "afa-baseline": ("afa", "cross-entropy", "cross-entropy", {"baseline"}),
    }
    assert record["variants"].keys() == models.keys()
    for key, (variant, model, title, stages) in models.items():
        entry = record["variants"][key]
        assert (entry["title"], entry["seeds"], entry["stages"].keys()) == (title, [0, 1], stages)
        for name in ("clean", "pgd-2"):
            values = [json.loads((grid / variant / f"seed{seed}" / "summary.json").read_text())[model] for seed in (0, 1)]
            assert entry["accuracy"][name]["values"] == [v["accuracies"][name]["accuracy"] for v in values]
    assert "| mine |" in (base / "grid.md").read_text()
    assert (base / "grid.png").read_bytes().startswith(b"\x89PNG")
    assert str(tmp_path) not in (base / "grid.json").read_text()  # no paths of a machine

    # Another specification must not be mixed with what is there.
    other = run(tmp_path, "--attack.eps", "0.2")
    assert other.returncode == 2
    assert "attack.eps" in other.stderr and "Traceback" not in other.stderr


@pytest.mark.slow
def test_a_failed_run_does_not_take_the_others_along(tmp_path):
    """The learning rate of one variant makes its loss infinite."""
    bad = {**VARIANTS, "nan": {"finetune": {"objective": "ce", "optimiser": {"lr": 1e30}}}}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe(variants={k: bad[k] for k in ("nan", "ce")}, seeds=[0])))
    done = subprocess.run(
        [sys.executable, ROOT / "jobs/ablation.py", "--config", path], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "nan with seed 0" in done.stderr and "not finite" in done.stderr and "Traceback" not in done.stderr
    record = json.loads((tmp_path / "results/digits/linf/grid.json").read_text())
    assert (list(record["variants"]), record["missing"]) == (["ce"], ["nan/seed0"])
