"""Where an option's value comes from, and that a saved specification is enough to run it again."""

import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from afa_dist.cli import evaluating, pipeline, training, tuning
from afa_dist.cli.arguments import parse
from afa_dist.cli.recipes import STAGES, for_stage, merge, nest, read_recipe
from afa_dist.cli.specification import build, leaves
from afa_dist.cli.trial_runs import Trials
from afa_dist.config import EvaluateRun, FinetuneRun, PipelineRun, PretrainRun
from afa_dist.config.fields import hints_of, to_mapping
from afa_dist.config.tune import TuneConfig

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
RECIPE = {
    "name": "n",
    "seed": 3,
    "attack": {"eps": "4/255", "steps": 5},
    "pretrain": {"attack": {"steps": 7}},
    "finetune": {"schedule": {"epochs": 2}},
}


def test_default_below_recipe_below_stage_below_command_line():
    run = build(PretrainRun, for_stage(RECIPE, "pretrain"))
    assert (run.seed, run.attack.eps, run.attack.steps, run.attack.bn) == (3, 4 / 255, 7, "eval")
    run = build(PretrainRun, for_stage(RECIPE, "pretrain", nest({"attack.steps": "9", "seed": "1"})))
    assert (run.seed, run.attack.steps) == (1, 9)


def test_a_stage_starts_from_the_one_before_in_the_same_experiment():
    run = build(FinetuneRun, for_stage(RECIPE, "finetune"))
    assert (run.name, run.init, run.schedule.epochs) == ("n/finetune", "runs/n/pretrain", 2)
    values = for_stage(RECIPE, "evaluate", {"runs_dir": "/elsewhere"})
    assert (values["name"], values["model"]) == ("n/evaluate/finetune", "/elsewhere/n/finetune")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_resolves_and_survives_its_own_record(path):
    recipe = read_recipe(str(path), grid=True)
    if "ablation" in recipe:
        return  # its stages are made by its variants: test_recipes.py
    for stage in (stage for stage in STAGES if stage in recipe):
        values = merge(for_stage(recipe, stage), {"data": {"path": None}})
        if values["data"].get("name") != "digits":
            values["data"]["path"] = "/somewhere"
        run = build(STAGES[stage], values)
        assert build(STAGES[stage], yaml.safe_load(yaml.safe_dump(to_mapping(run)))) == run


def test_the_config_of_a_run_directory_names_the_same_run():
    run = build(PretrainRun, for_stage(RECIPE, "pretrain"))
    assert build(PretrainRun, for_stage(to_mapping(run), "pretrain")) == run


def test_pipeline_and_single_jobs_resolve_to_the_same_run(monkeypatch, capsys):
    recipe = str(ROOT / "recipes/digits.yaml")
    monkeypatch.setattr(sys, "argv", ["pipeline.py", "--config", recipe, "--attack.steps", "3", "--print-config"])
    assert pipeline.main("pipeline.py", "") == 0
    whole = yaml.safe_load(capsys.readouterr().out)
    for cls, stage in ((PretrainRun, "pretrain"), (FinetuneRun, "finetune")):
        monkeypatch.setattr(sys, "argv", ["x.py", "--config", recipe, "--attack.steps", "3", "--print-config"])
        assert training.main(cls, stage, "x.py", "") == 0
        assert yaml.safe_load(capsys.readouterr().out) == whole[stage]


@pytest.mark.parametrize(
    ("main", "options"),
    [
        (pipeline.main, ["--config", "recipes/digits.yaml", "--attack.steps", "3"]),
        (tuning.main, ["--config", "recipes/digits-joint.yaml", "--space", "tune_spaces/joint.py", "--max-trials", "4"]),
    ],
)
def test_what_print_config_prints_is_a_recipe_of_the_same(main, options, monkeypatch, capsys, tmp_path):
    """A job that waits in a queue is kept so; --dry-run has it checked as well."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["x.py", *options, "--print-config", "--dry-run"])
    assert main("x.py", "") == 0
    printed = capsys.readouterr().out
    (tmp_path / "config.yaml").write_text(printed)
    monkeypatch.setattr(sys, "argv", ["x.py", "--config", str(tmp_path / "config.yaml"), "--print-config"])
    assert main("x.py", "") == 0
    assert capsys.readouterr().out == printed


def test_trials_of_a_search_that_is_read_back_have_places_of_their_own(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(ROOT)
    options = ["--config", "recipes/digits.yaml", "--space", "tune_spaces/pretrain.py", "--name", "s"]
    monkeypatch.setattr(sys, "argv", ["x.py", *options, "--print-config"])
    assert tuning.main("x.py", "") == 0
    recipe = {
        key: value for key, value in yaml.safe_load(capsys.readouterr().out).items() if key not in hints_of(TuneConfig)
    }
    run = Trials.of(recipe, {}, TuneConfig(space="x")).run({}, "0003")
    assert (run.pretrain.name, run.finetune.name) == ("s/trials/0003/pretrain", "s/trials/0003/finetune")
    assert run.finetune.init == "runs/s/trials/0003/pretrain"
    assert run.evaluate.model == "runs/s/trials/0003/finetune"


def test_a_stage_option_goes_before_a_shared_one_on_the_command_line(monkeypatch, capsys):
    argv = [
        "--config",
        str(ROOT / "recipes/cifar10-short.yaml"),
        "--finetune.attack.eps",
        "0.1",
        "--attack.eps",
        "0.3",
        "--data.path",
        "x",
    ]
    monkeypatch.setattr(sys, "argv", ["pipeline.py", *argv, "--print-config"])
    pipeline.main("pipeline.py", "")
    whole = yaml.safe_load(capsys.readouterr().out)
    assert whole["pretrain"]["attack"]["eps"] == 0.3
    assert whole["finetune"]["attack"]["eps"] == 0.1
    assert whole["evaluate"]["threat"]["eps"] == 0.1  # measured at what the classifier was trained for


def test_evaluation_takes_the_saved_data_and_threat_but_flags_go_before(tmp_path):
    (tmp_path / "model").mkdir()
    saved = '{"format": 1, "data": {"name": "digits", "held_out": 7}, "threat": {"norm": "l2", "eps": 0.5}}'
    (tmp_path / "model" / "config.json").write_text(saved)
    run = build(EvaluateRun, evaluating.with_saved({"model": str(tmp_path), "threat": {"eps": "0.25"}}))
    assert (run.data.held_out, run.threat.norm, run.threat.eps) == (7, "l2", 0.25)


@settings(max_examples=200, deadline=None)
@given(text=st.one_of(st.text(max_size=12), st.floats().map(str), st.integers().map(str)), data=st.data())
def test_any_text_for_any_option_is_taken_or_refused_by_name(text, data):
    name, _, _ = data.draw(st.sampled_from(list(leaves(PretrainRun))))
    try:
        build(PretrainRun, nest({name: text}))
    except ValueError as error:
        assert name.rpartition(".")[0] in str(error)
        assert len(str(error).splitlines()) < 10


@pytest.mark.parametrize(
    ("cls", "script"),
    [(PretrainRun, "pretrain"), (FinetuneRun, "finetune"), (EvaluateRun, "evaluate"), (PipelineRun, "pipeline")],
)
def test_help_explains_every_option(cls, script, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse(cls, ["--help"], program=script, description="")
    assert stopped.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    hidden = tuple(f"{stage}." for stage in STAGES) if cls is PipelineRun else ()
    for name, _, field in leaves(cls):
        assert field.metadata["help"], name
        if not name.startswith(hidden or ("-",)):
            assert f"--{name} " in text
