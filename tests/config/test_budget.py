"""The passes that a run is said to cost are the passes that it makes."""

import dataclasses

import pytest
import torch

from afa_dist.config import (
    AwpConfig,
    ClassifierAttackConfig,
    ContrastiveAttackConfig,
    DataConfig,
    FinetuneRun,
    MethodConfig,
    ModelConfig,
    PipelineRun,
    PretrainRun,
    ScheduleConfig,
)
from afa_dist.config.budget import passes_per_image, total_passes, with_budget
from afa_dist.data.loader import Batch
from afa_dist.distributed import World
from afa_dist.models.build import DataShape
from afa_dist.training.awp import worst_weights
from afa_dist.training.job import make_step

SMALL = ModelConfig(width=8, norm="batch", projection_dim=16)
B = 16


def pretrain(method=None, awp=0.0, **attack):
    attack = ContrastiveAttackConfig(**{"eps": 0.1, "steps": 3} | attack)
    return PretrainRun(model=SMALL, method=MethodConfig(**method or {}), attack=attack, awp=AwpConfig(gamma=awp))


def finetune(attack=None, awp=0.0, **options):
    attack = ClassifierAttackConfig(**{"eps": 0.1, "steps": 3} | (attack or {}))
    return FinetuneRun(mode="full", model=SMALL, attack=attack, awp=AwpConfig(gamma=awp), **options)


RUNS = {
    "afa": (pretrain(), 1 + 3 + 2),
    "afa, both keys": (pretrain({"keys": "both", "anchors": "both"}), 1 + 3 + 2),
    "afa, adversarial keys": (pretrain({"keys": "adversarial"}), 3 + 2),
    "afa, adversarial keys, clean in the attack": (pretrain({"keys": "adversarial"}, keys="clean"), 1 + 3 + 2),
    "ce attack": (pretrain(objective="ce"), 3 + 2),
    "kl attack": (pretrain(objective="kl"), 1 + 3 + 2),
    "supcon, one view": (pretrain(eps=0.0), 1),
    "supcon, two views": (pretrain({"views": "independent"}, eps=0.0), 2),
    "fgsm": (pretrain(algorithm="fgsm-rs"), 1 + 1 + 2),
    "awp": (pretrain(awp=0.01), 1 + 3 + 2 * 2),
    "cross-entropy": (finetune(objective="ce"), 1),
    "pgd-at": (finetune(), 3 + 1),
    "n-fgsm": (finetune({"algorithm": "n-fgsm"}), 1 + 1),
    "trades": (finetune(objective="trades"), 1 + 3 + 2),
    "trades, ce attack": (finetune({"objective": "ce"}, objective="trades"), 3 + 2),
    "joint": (finetune(objective="trades", afa_weight=1.0), 1 + 3 + 2),
    "pgd + afa": (finetune(afa_weight=1.0), 3 + 2),
    "trades, awp": (finetune(objective="trades", awp=0.01), 1 + 3 + 2 * 2),
}


def passes_made(run):
    """Images that go through the backbone in one training step, for each image of the batch."""
    step = make_step(run, DataShape(1, (0.3,), (0.4,), tuple("abc")), World())
    seen = []
    step.net.encoder.backbone.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    second = torch.rand(B, 1, 8, 8) if run.method.views == "independent" else None
    batch = Batch(torch.rand(B, 1, 8, 8), torch.arange(B) % 3, 0, second)
    x_adv = step.attack(batch, 0, run.attack.eps)
    if run.awp.gamma:
        with worst_weights(list(step.parameters()), step.net, lambda: step.loss(batch, x_adv).loss, run.awp.gamma):
            step.loss(batch, x_adv)
    else:
        step.loss(batch, x_adv)
    return sum(seen) / B


@pytest.mark.parametrize("name", RUNS)
def test_counted_passes_are_made(name):
    run, expected = RUNS[name]
    assert passes_per_image(run) == expected == passes_made(run)


@pytest.mark.parametrize("name", RUNS)
def test_without_batch_norm_the_clean_images_pass_once_for_attack_and_loss(name):
    """That makes a run faster, not cheaper on paper: methods are compared by what they need with any normalisation."""
    run, expected = RUNS[name]
    run = dataclasses.replace(run, model=dataclasses.replace(run.model, norm="group"))
    alone = {"supcon, one view", "supcon, two views", "cross-entropy", "pgd-at", "n-fgsm", "trades, ce attack", "pgd + afa"}
    shared = name not in alone | {"afa, adversarial keys", "ce attack"}
    assert passes_per_image(run) == expected == passes_made(run) + shared


def test_a_budget_sets_the_epochs_of_all_stages():
    run = PipelineRun(pretrain=pretrain(), finetune=finetune())
    made = with_budget(run, 300, pretrain_share=0.8)
    assert made.pretrain.schedule.epochs == 40  # 240 / 6
    assert made.finetune.schedule.epochs == 15  # the other 60, 4 an epoch
    alone = with_budget(dataclasses.replace(run, pretrain=None), 300, pretrain_share=0.8)
    assert total_passes(alone.finetune) == 300
    assert alone.finetune.schedule == ScheduleConfig(epochs=75)


def test_a_budget_counts_generated_images():
    """An epoch over 100 real images with 70 % generated ones has 333 images, give or take a batch: fewer epochs."""
    plain = finetune(objective="trades")
    mixed = dataclasses.replace(plain, data=DataConfig(generated="g", generated_fraction=0.75))
    run = PipelineRun(pretrain=None, finetune=plain)
    assert with_budget(run, 240, 0.5).finetune.schedule.epochs == 40
    assert with_budget(dataclasses.replace(run, finetune=mixed), 240, 0.5).finetune.schedule.epochs == 10
    assert total_passes(with_budget(dataclasses.replace(run, finetune=mixed), 240, 0.5).finetune) == 240
    alone = dataclasses.replace(plain, data=DataConfig(generated="g", generated_fraction=1.0))
    assert with_budget(dataclasses.replace(run, finetune=alone), 240, 0.5).finetune.schedule.epochs == 40
