"""A grid: its variants, its budget, and that it goes on where it stopped."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from matplotlib.collections import PathCollection

from afa_dist.cli.ablation import resolve
from afa_dist.cli.arguments import parse
from afa_dist.cli.grid import grid_of, summarised
from afa_dist.cli.grid_record import plan_of
from afa_dist.config import AblationConfig, AblationRun
from afa_dist.config.budget import total_passes
from afa_dist.errors import Problem, UserError
from afa_dist.report import plots
from afa_dist.report.ablation import spread

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


def cells_of(ablation, overrides=None, **config):
    return grid_of(recipe(**ablation), {"runs_dir": "/nowhere"} | (overrides or {}), AblationConfig(**config)).cells


def wrong(ablation, overrides=None, **config):
    """The mistakes that a grid is refused for, as {where: what}."""
    with pytest.raises(UserError) as error:
        cells_of(ablation, overrides, **config)
    return {problem.where: problem.what for problem in error.value.problems}


def test_a_variant_has_the_stages_that_it_names():
    cells = cells_of({"variants": VARIANTS}, {"attack": {"eps": 0.05}}, seeds=(0, 7))
    assert [(cell.variant, cell.seed) for cell in cells] == [("ce", 0), ("afa", 0), ("ce", 7), ("afa", 7)]
    ce, afa = cells[2:]
    assert ce.run.pretrain is None and ce.run.baseline is None
    assert (ce.run.finetune.mode, ce.run.finetune.objective, ce.title) == ("full", "ce", "cross-entropy")
    assert afa.run.pretrain.method.keys == "both"  # from the recipe
    assert (afa.title, afa.run.finetune.mode, afa.run.finetune.seed) == ("mine", "linear", 7)
    assert afa.run.finetune.init.endswith("grid/afa/seed7/pretrain")
    assert {cell.run.finetune.attack.eps for cell in cells} == {0.05}  # typed options hold for all


def test_axes_are_combined_with_the_variants_that_have_their_stage():
    axes = {"pretrain.method.keys": ["clean", "both"], "finetune.attack.eps": ["8/255", 0.1]}
    cells = cells_of({"grid": axes, "variants": VARIANTS}, {"evaluate": {"threat": {"eps": 0.1}}}, seeds=(0,))
    assert [cell.variant for cell in cells] == [
        "ce-eps=8_255",
        "ce-eps=0.1",
        "afa-keys=clean-eps=8_255",
        "afa-keys=clean-eps=0.1",
        "afa-keys=both-eps=8_255",
        "afa-keys=both-eps=0.1",
    ]
    third = cells[2].run
    assert (third.pretrain.method.keys, third.finetune.attack.eps, third.finetune.mode) == ("clean", 8 / 255, "linear")
    assert len({cell.title for cell in cells}) == 6  # told apart in tables
    assert cells[0].run.pretrain is None


def test_a_recipe_without_variants_is_one():
    (cell,) = cells_of({"grid": {"finetune.beta": [3]}}, seeds=(0,))
    assert (cell.variant, cell.run.finetune.beta) == ("beta=3", 3)
    assert cell.run.pretrain is not None and cell.run.baseline is not None
    (cell,) = cells_of({}, seeds=(0,))
    assert cell.variant == "recipe"


def test_typed_options_of_a_stage_hold_where_it_is():
    ce, afa = cells_of({"variants": VARIANTS}, {"pretrain": {"schedule": {"epochs": 3}}}, seeds=(0,))
    assert ce.run.pretrain is None
    assert afa.run.pretrain.schedule.epochs == 3
    only_ce = {"variants": {"ce": VARIANTS["ce"]}}
    assert wrong(only_ce, {"pretrain": {"schedule": {"epochs": 3}}}) == {"pretrain": "is not a stage of any variant"}


def test_mistakes_of_all_variants_are_reported_by_name():
    bad = {"x": {"finetune": {"objectiv": "ce"}}, "y": {"pretrain": {"method": {"keys": "none"}}, "finetune": None}}
    assert wrong({"variants": bad}).keys() == {"x.finetune.objectiv", "y.pretrain.method.keys"}
    typed = {"seed": 3, "finetune": {"seed": 1, "name": "n"}}
    found = wrong({"variants": bad}, typed, only=("z",), reference="w")
    assert found.keys() == {"ablation.only", "ablation.reference", "seed", "finetune.seed", "finetune.name"}
    assert found["ablation.only"].endswith("choose from x, y")


@pytest.mark.parametrize(
    ("ablation", "where"),
    [
        ({"variants": ["a"]}, "ablation.variants"),
        ({"variants": {1: {}}}, "ablation.variants"),
        ({"variants": {"a/b": {}}}, "ablation.variants"),
        ({"variants": {"a": {"pretrain_share": "abc"}}}, "a.pretrain_share"),
        ({"variants": {"a": {"pretrain_share": 1.5}}}, "a.pretrain_share"),
        ({"variants": {"a": {"title": 3}}}, "a.title"),
        ({"grid": {"seed": 3}}, "ablation.grid"),
        ({"grid": {7: [1]}}, "ablation.grid"),
        ({"grid": {"pretrain": [1], "pretrain.seed": [2]}}, "ablation.grid"),
    ],
    ids=str,
)
def test_a_section_of_another_form_is_refused(ablation, where):
    assert wrong(ablation).keys() == {where}


def test_repeated_mistakes_are_told_once():
    """One that variants share, an option that nobody knows, and a section of a stage that is misspelt."""
    bad = {"a": {"finetune": {"objective": "tradess"}}, "b": {"finetune": {"objective": "tradess"}}, "c": {"finetunes": {}}}
    with pytest.raises(UserError) as error:
        grid_of({**RECIPE, "pretrian": {}, "ablation": {"variants": bad}}, {}, AblationConfig())
    found = [problem.where for problem in error.value.problems]
    assert found == ["pretrian", "finetune.objective", "c.finetunes"]
    alike = [Problem("v.name", f"holds run {seed}") for seed in range(9)] + [Problem("w.data.path", "no such folder")] * 9
    shown = [str(problem) for problem in summarised(alike, ["v", "w"])]
    assert len(shown) == 5 and "name: and 6 more like these, in other runs" in shown


def test_a_mistake_in_the_grids_own_options_names_their_section(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("ablation: {bugdet: 3}")
    with pytest.raises(UserError, match=r"ablation\.bugdet: is not an option; did you mean budget"):
        resolve(parse(AblationRun, ["--config", str(path)], program="", description=""))


def test_spread_is_that_of_a_sample():
    assert spread([0.1, 0.3]) == {"mean": pytest.approx(0.2), "std": pytest.approx(0.02**0.5), "values": [0.1, 0.3]}
    assert spread([0.1])["std"] == 0


@pytest.mark.parametrize(
    ("option", "value"),
    [("attacks", ["pgd-3"]), ("part", "held_out"), ("data", {"test_limit": 32}), ("threat", {"norm": "l2"})],
)
def test_an_evaluation_of_its_own_is_refused(option, value):
    other = {**VARIANTS, "other": {"finetune": {"objective": "ce"}, "evaluate": {option: value}}}
    assert f"evaluate.{option}" in wrong({"variants": other})


def test_variants_must_be_measured_alike():
    axes = {"grid": {"attack.eps": [0.1, 0.2]}}
    assert wrong(axes).keys() == {"evaluate.threat"}
    assert len(cells_of(axes, {"evaluate": {"threat": {"eps": 0.1}}}, seeds=(0,))) == 2


def test_a_budget_makes_variants_cost_alike():
    cells = cells_of({"variants": VARIANTS}, seeds=(0,), budget=60, pretrain_share=0.5)
    costs = [total_passes(c.run.finetune) + (total_passes(c.run.pretrain) if c.run.pretrain else 0) for c in cells]
    assert costs == [60, 60]
    assert cells[0].run.finetune.schedule.epochs == 60
    assert total_passes(cells[1].run.baseline) == 60


def command(tmp_path, *more):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe(variants=VARIANTS, seeds=[0, 1])))
    return [sys.executable, ROOT / "jobs/ablation.py", "--config", path, "--ablation.parallel", "2", *more]


def run(tmp_path, *more):
    return subprocess.run(command(tmp_path, *more), cwd=tmp_path, capture_output=True, text=True, timeout=300)


def test_what_a_variant_says_for_all_stages_goes_before_what_the_recipe_says_for_one():
    base = {"finetune": {"mode": "linear", "objective": "pgd", "optimiser": {"lr": 0.5, "momentum": 0.5}}}
    options = {"mode": "full", "objective": "trades", "optimiser": {"lr": 0.1}, "model": {"width": 16}}
    recipe = {**RECIPE, **base, "baseline": None, "pretrain": None, "ablation": {"variants": {"a": options}}}
    (cell,) = grid_of(recipe, {"runs_dir": "/nowhere"}, AblationConfig(seeds=(0,))).cells
    run = cell.run.finetune
    assert (run.mode, run.objective, run.optimiser.lr, run.optimiser.momentum) == ("full", "trades", 0.1, 0.5)
    options["finetune"] = {"objective": "pgd"}  # its own word for the stage goes before that
    (cell,) = grid_of(recipe, {"runs_dir": "/nowhere"}, AblationConfig(seeds=(0,))).cells
    assert (cell.run.finetune.mode, cell.run.finetune.objective) == ("full", "pgd")


def test_a_budget_does_not_overrule_typed_epochs_in_silence():
    typed = {"finetune": {"schedule": {"epochs": 2}}, "schedule": {"epochs": 3}}
    assert wrong({"variants": VARIANTS}, typed, budget=30).keys() == {"schedule.epochs", "finetune.schedule.epochs"}
    assert cells_of({"variants": VARIANTS}, typed)[0].run.finetune.schedule.epochs == 2


def test_a_record_tells_runs_of_another_precision_apart():
    plans = [
        plan_of("grid", cells_of({"variants": VARIANTS}, {"scaling": {"precision": p, "threads": n}}), AblationConfig())
        for p, n in (("fp32", 1), ("bf16", 1), ("bf16", 2))
    ]
    assert plans[0]["variants"] != plans[1]["variants"] == plans[2]["variants"]


def test_the_plot_shows_means_deviations_and_how_many_runs(tmp_path, monkeypatch):
    def accuracy(*values):
        return {"clean": spread([v + 0.1 for v in values]), "pgd-2": spread(values)}

    record = {
        **{"name": "grid", "data": "digits", "part": "held_out", "threat": {"norm": "linf", "eps": 0.2}},
        **{"attacks": ["pgd-2"], "date": "today", "images": 10},
        "variants": {
            "a": {"title": "first", "seeds": [0, 1, 2], "accuracy": accuracy(0.5, 0.6, 0.7)},
            "b": {"title": "second", "seeds": [0], "accuracy": accuracy(0.55)},
        },
    }
    drawn = []
    monkeypatch.setattr(plots, "save", lambda figure, path: drawn.append(figure))
    plots.trade_off(record, tmp_path / "p.png")
    (axes,) = drawn[0].axes
    assert "held-out images" in drawn[0].get_suptitle() and "n = 1 to 3" in drawn[0].get_suptitle()
    assert "1  first (n = 3)\n2  second (n = 1)" in [text.get_text() for text in drawn[0].texts]
    points = [x for dots in axes.collections if isinstance(dots, PathCollection) for x in dots.get_offsets()[0]]
    assert points == pytest.approx([70, 60, 65, 55])
    (bars,) = axes.containers  # one run has none
    across, up = (line.get_segments()[0] for line in bars[2])
    assert across.ravel().tolist() == pytest.approx([60, 60, 80, 60])
    assert up.ravel().tolist() == pytest.approx([70, 50, 70, 70])


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

    # A part of the grid neither repeats nor hides the rest; the same folder written otherwise is the same folder.
    chosen = ["--ablation.only", "ce", "--ablation.seeds", "0", "--ablation.reference", "ce"]
    part = run(tmp_path, *chosen, "--runs_dir", str(tmp_path / "runs"))
    assert part.returncode == 0, part.stderr
    again = json.loads((base / "grid.json").read_text())
    assert {key: value["accuracy"] for key, value in again["variants"].items()} == {
        key: value["accuracy"] for key, value in record["variants"].items()
    }

    ours, reference = (again["variants"][key]["accuracy"]["pgd-2"]["values"] for key in ("afa", "ce"))
    difference = again["variants"]["afa"]["difference"]["pgd-2"]
    assert difference["values"] == [a - b for a, b in zip(ours, reference, strict=True)]
    shown = f"{100 * difference['mean']:+.1f} ± {100 * difference['std']:.1f}"
    assert f"| {shown} |" in (base / "grid.md").read_text()

    # A smaller grid of other runs must not take the place of these figures, nor start to work for nothing.
    small = run(tmp_path, "--runs_dir", "elsewhere", "--ablation.seeds", "0", "--finetune.schedule.epochs", "2")
    assert small.returncode == 2 and "Traceback" not in small.stderr
    assert "grid.json" in small.stderr and "ce with seed 1" in small.stderr
    assert "afa.finetune.schedule.epochs 1, now 2" in small.stderr
    assert not (tmp_path / "elsewhere").exists()
    assert json.loads((base / "grid.json").read_text()) == again

    # Another specification must not be mixed with what is there.
    other = run(tmp_path, "--attack.eps", "0.2")
    assert other.returncode == 2
    assert "attack.eps" in other.stderr and "Traceback" not in other.stderr


def pipelines_of(pid):
    found = []
    for child in psutil.Process(pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):  # libraries look for compilers and the like as they are imported
            found += [child] if "afa_dist.cli.pipeline" in child.cmdline() else []
    return found


def test_a_terminated_grid_takes_its_runs_along(tmp_path):
    started = subprocess.Popen(command(tmp_path), cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not (children := pipelines_of(started.pid)):
        assert started.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    started.terminate()
    _, errors = started.communicate(timeout=60)
    assert started.returncode == 130
    assert b"the same command continues" in errors and b"Traceback" not in errors
    assert not any(child.is_running() for child in children)


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
