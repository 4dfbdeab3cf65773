"""Every recipe in the repository resolves, and each of its stages takes one optimiser step."""

import dataclasses
import sys
from pathlib import Path

import pytest
import torch

from afa_dist.cli import pipeline, recipes
from afa_dist.cli.ablation import resolve as resolve_grid
from afa_dist.cli.arguments import parse
from afa_dist.cli.grid import grid_of
from afa_dist.cli.pipeline import stages_of
from afa_dist.cli.specification import build
from afa_dist.config import AblationConfig, AblationRun, DiffusionRun, FinetuneRun, PipelineRun
from afa_dist.data.loader import Batch
from afa_dist.distributed import World
from afa_dist.errors import UserError
from afa_dist.models.build import DataShape
from afa_dist.training.job import make_step
from afa_dist.training.optimiser import build_optimiser

ROOT = Path(__file__).parents[2] / "recipes"
FILES = sorted(ROOT.glob("*.yaml"))
DIFFUSION = [path for path in FILES if path.stem.endswith("-edm")]
SINGLE = [path for path in FILES if not path.name.startswith("ablation") and path not in DIFFUSION]
GRIDS = [path for path in FILES if path.name.startswith("ablation")]
SHAPES = {"digits": (1, 8, 10), "cifar100": (3, 32, 100)}
"""Channels, size and classes, where they are not those of CIFAR-10."""

LARGE = ("wrn-34-10", "wrn-36-10", "wrn-70-16")
"""Networks that take their step in one stage, with two images: it takes up to half a minute on one core."""

FASTER = {"attack": {"steps": 1}, "scaling": {"precision": "fp32"}}
"""What one step is shortened by: the attack has one step, and batches hold few images."""


def resolved(path):
    overrides = {} if path.stem.startswith("digits") else {"data": {"path": "anywhere"}}
    recipe = recipes.read_recipe(str(path))
    return build(PipelineRun, pipeline.stage_values(recipe, recipes.merge(overrides, FASTER)))


def take_one_step(run, images=3):
    channels, size, classes = SHAPES.get(run.data.name, (3, 32, 10))
    names = tuple(str(index) for index in range(classes))
    step = make_step(run, DataShape(channels, (0.4,) * channels, (0.3,) * channels, names, (size, size)), World())
    named = [(name, p) for name, p in step.net.named_parameters() if p.requires_grad]
    before = named[-1][1].detach().clone()
    optimiser = build_optimiser(named, run.optimiser)
    x = torch.rand(images, channels, size, size, generator=torch.Generator().manual_seed(0))
    batch = Batch(x, torch.arange(images) % 2, 0, x.flip(0))
    step.train_mode()
    diffusion = isinstance(run, DiffusionRun)
    output = step.loss(batch, 0) if diffusion else step.loss(batch, step.attack(batch, 0, run.attack.eps))
    output.loss.backward()
    assert torch.isfinite(output.loss)
    assert named[-1][1].grad.any()  # of the loss itself: weight decay alone would move the weights too
    optimiser.step()
    assert not torch.equal(named[-1][1], before)


@pytest.mark.parametrize("path", SINGLE, ids=lambda path: path.stem)
def test_every_recipe_takes_a_step(path):
    run = resolved(path)
    assert run.name == path.stem
    for stage, training in stages_of(run).items():
        large = training.model.arch in LARGE
        if not large or stage == "pretrain":
            take_one_step(from_fresh_weights(training), images=2 if large else 3)


def from_fresh_weights(run):
    """The stage as `make_step` builds it, but for weights of an earlier run, which does not exist here."""
    if isinstance(run, FinetuneRun):
        object.__setattr__(run, "init", "scratch")
    return run


@pytest.mark.parametrize("path", DIFFUSION, ids=lambda path: path.stem)
def test_every_diffusion_model_takes_a_step(path):
    values = recipes.merge(
        recipes.read_recipe(str(path)), {"data": {"path": None if "digits" in path.stem else "anywhere"}}
    )
    run = build(DiffusionRun, values)
    assert run.name == path.stem
    take_one_step(run, images=2)


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_every_variant_of_every_grid_takes_a_step(path):
    flags = [] if "digits" in path.stem else ["--data.path", "anywhere"]
    arguments = parse(AblationRun, ["--config", str(path), *flags], program="", description="")
    config = build(*resolve_grid(arguments))
    assert isinstance(config, AblationConfig)
    overrides = recipes.merge(recipes.nest(arguments.overrides), FASTER)
    recipe = recipes.read_recipe(str(path), grid=True)
    for cell in grid_of(recipe, overrides, AblationConfig(seeds=config.seeds[:1], budget=config.budget)).cells:
        for training in stages_of(cell.run).values():
            take_one_step(from_fresh_weights(training))


def test_there_are_recipes_for_every_baseline_and_architecture():
    stems = {path.stem for path in SINGLE}
    for data in ("cifar10", "cifar100"):
        kinds = ["afa", "ce", "pgd-at", "trades", "trades-awp", "supcon", "supcon-ce-attack", "joint", "afa-joint"]
        archs = ["resnet50", "wrn-28-10", "wrn-34-10", "wrn-36-10", "wrn-70-16"]
        assert {f"{data}-{kind}" for kind in kinds} | {f"{data}-afa-{arch}" for arch in archs} <= stems


@pytest.mark.parametrize("data", ["cifar10", "cifar100"])
def test_recipes_with_an_afa_stage_share_it(data):
    afa, joint = resolved(ROOT / f"{data}-afa.yaml"), resolved(ROOT / f"{data}-afa-joint.yaml")
    assert dataclasses.replace(joint.pretrain, name=afa.pretrain.name) == afa.pretrain
    assert joint.pretrain.schedule.epochs == 300
    scratch = resolved(ROOT / f"{data}-joint.yaml")
    assert scratch.pretrain is None
    same = ("objective", "beta", "afa_weight", "method", "attack", "ema", "label_smoothing")
    assert all(getattr(scratch.finetune, name) == getattr(joint.finetune, name) for name in same)


def test_base_recipes_are_laid_under_and_stages_left_out(tmp_path):
    (tmp_path / "a.yaml").write_text("name: a\nseed: 1\npretrain: {method: {temperature: 0.2}}\nbaseline: {}\n")
    (tmp_path / "b.yaml").write_text("base: a.yaml\nname: b\nbaseline: null\npretrain: {schedule: {epochs: 3}}\n")
    assert recipes.read_recipe(str(tmp_path / "b.yaml")) == {
        "name": "b",
        "seed": 1,
        "pretrain": {"method": {"temperature": 0.2}, "schedule": {"epochs": 3}},
    }
    (tmp_path / "a.yaml").write_text("base: b.yaml\n")
    with pytest.raises(UserError, match="based on itself"):
        recipes.read_recipe(str(tmp_path / "b.yaml"))
    (tmp_path / "c.yaml").write_text("base: gone.yaml\n")
    with pytest.raises(UserError, match=r"gone\.yaml cannot be read"):
        recipes.read_recipe(str(tmp_path / "c.yaml"))


def test_a_grid_is_not_taken_for_a_run(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pipeline.py", "--config", str(GRIDS[0])])
    assert pipeline.main("pipeline.py", "") == 2
    assert "run it with jobs/ablation.py" in capsys.readouterr().err


def test_options_for_a_stage_that_is_not_there_are_refused():
    with pytest.raises(UserError, match="pretrain: is not a stage of this recipe, which has finetune, evaluate"):
        pipeline.stage_values({"finetune": {}}, {"pretrain": {"seed": 1}})
