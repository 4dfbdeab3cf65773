"""The pass that attack and loss share changes no figure, and is made once."""

import dataclasses

import pytest
import torch

from afa_dist.config import (
    ClassifierAttackConfig,
    ContrastiveAttackConfig,
    FinetuneRun,
    MethodConfig,
    ModelConfig,
    PretrainRun,
)
from afa_dist.data.loader import Batch
from afa_dist.distributed import World
from afa_dist.models.build import DataShape, build_classifier
from afa_dist.training.finetune import FinetuneStep
from afa_dist.training.job import make_step

SHAPE = DataShape(1, (0.3,), (0.4,), tuple("abc"))
MODEL = ModelConfig(width=8, norm="group", projection_dim=16)
FINETUNE = FinetuneRun(
    mode="full",
    objective="trades",
    model=MODEL,
    method=MethodConfig(keys="both", anchors="both"),
    attack=ClassifierAttackConfig(eps=0.1, steps=3),
)
PRETRAIN = PretrainRun(model=MODEL, attack=ContrastiveAttackConfig(eps=0.1, steps=3))
RUNS = {
    "afa": PRETRAIN,
    "afa, two views": dataclasses.replace(PRETRAIN, method=MethodConfig(views="independent", keys="both")),
    "afa, kl attack": dataclasses.replace(PRETRAIN, attack=dataclasses.replace(PRETRAIN.attack, objective="kl")),
    "trades": FINETUNE,
    "joint": dataclasses.replace(FINETUNE, afa_weight=0.5),
    "pgd + afa, afa attack": dataclasses.replace(
        FINETUNE, objective="pgd", afa_weight=0.5, attack=dataclasses.replace(FINETUNE.attack, objective="afa")
    ),
}


def step_of(run):
    step = make_step(dataclasses.replace(run, scaling=dataclasses.replace(run.scaling, precision="fp64")), SHAPE, World())
    step.train_mode()
    return step


def batch(run):
    x, second = torch.rand(2, 32, 1, 8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    two = isinstance(run, PretrainRun) and run.method.views == "independent"
    return Batch(x, torch.arange(32) % 3, 0, second if two else None)


def passes(step):
    """A list that grows by the size of each pass through the network."""
    seen = []
    step.net.encoder.backbone.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    return seen


@pytest.mark.parametrize("name", RUNS)
def test_loss_gradients_and_attack_are_those_of_separate_passes(name, monkeypatch):
    run = RUNS[name]
    results = []
    for shared in (True, False):
        if not shared:
            for module in ("pretrain", "finetune"):
                monkeypatch.setattr(f"afa_dist.training.{module}.same_in_attack", lambda net, bn: False)
        step, b = step_of(run), batch(run)
        seen = passes(step)
        x_adv = step.attack(b, 0, 0.1)
        loss = step.loss(b, x_adv).loss
        assert sum(seen) == 32 * (3 + 2 + (not shared))
        results.append([x_adv, loss.detach(), *torch.autograd.grad(loss, step.parameters())])
    for once, twice in zip(*results, strict=True):
        torch.testing.assert_close(once, twice, rtol=1e-9, atol=1e-10)


def test_it_is_used_once_and_only_for_its_own_images():
    """Afterwards its graph is gone and weights may have moved."""
    step, b = step_of(PRETRAIN), batch(PRETRAIN)
    seen = passes(step)
    x_adv = step.attack(b, 0, 0.1)
    seen.clear()
    step.loss(batch(PRETRAIN), x_adv)  # equal images, but others
    step.loss(b, x_adv)
    assert seen == [64, 64]
    step.attack(b, 0, 0.1)
    seen.clear()
    losses = [step.loss(b, x_adv).loss.item() for _ in range(2)]
    assert seen == [32, 64]
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


def test_a_kl_attack_on_two_views_has_its_own_target():
    """It starts from the first view, whose prediction is not that of the second one, which is the loss's clean half."""
    run = dataclasses.replace(RUNS["afa, two views"], attack=dataclasses.replace(PRETRAIN.attack, objective="kl"))
    step, b = step_of(run), batch(run)
    seen = passes(step)
    step.loss(b, step.attack(b, 0, 0.1))
    assert sum(seen) == 32 * (1 + 3 + 2)


def test_what_a_broken_off_step_left_is_dropped():
    step, b = step_of(PRETRAIN), batch(PRETRAIN)
    step.attack(b, 0, 0.1)
    step.attack(b, 0, 0.0)  # of a warm-up
    seen = passes(step)
    step.loss(b, b.images_BCHW + 0.0)
    assert seen == [64]


@pytest.mark.parametrize(("mode", "bn", "shared"), [("full", "eval", 0), ("linear", "eval", 1), ("linear", "batch", 0)])
def test_with_batch_norm_only_a_frozen_extractor_shares_it(mode, bn, shared):
    attack = dataclasses.replace(FINETUNE.attack, bn=bn)
    run = dataclasses.replace(
        FINETUNE, mode=mode, init="given", model=dataclasses.replace(MODEL, norm="batch"), attack=attack
    )
    step, b = FinetuneStep(build_classifier(run.model, SHAPE).double(), run), batch(run)
    step.train_mode()
    seen = passes(step)
    step.loss(b, step.attack(b, 0, 0.1))
    assert sum(seen) == 32 * (3 + 3 - shared)
