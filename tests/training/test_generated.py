"""What generated images count for in the losses: image by image, in float64."""

import dataclasses

import pytest
import torch

from afa_dist.attacks import kl_to_clean
from afa_dist.config import (
    ClassifierAttackConfig,
    FinetuneRun,
    GeneratedConfig,
    GeneratedLabelsConfig,
    MethodConfig,
    ModelConfig,
    PretrainRun,
)
from afa_dist.data.loader import Batch
from afa_dist.distributed import World
from afa_dist.losses import afa_loss
from afa_dist.models.build import DataShape
from afa_dist.training.contrast import Contrast
from afa_dist.training.job import make_step

SHAPE = DataShape(1, (0.3,), (0.4,), tuple("abc"))
MODEL = ModelConfig(width=8, norm="group", projection_dim=8)
WEIGHT, SMOOTHING, REAL_SMOOTHING = 0.3, 0.4, 0.1


def batch(generated=True):
    g = torch.Generator().manual_seed(0)
    x = torch.rand(12, 1, 8, 8, generator=g, dtype=torch.float64)
    return Batch(x, torch.arange(12) % 3, 0, generated_G=torch.arange(12) % 4 == 0 if generated else None)


def smoothed(logits, label, smoothing):
    """Cross-entropy with the target (1 - s) one-hot + s / K."""
    target = torch.full_like(logits, smoothing / len(logits))
    target[label] += 1 - smoothing
    return -(target * logits.log_softmax(0)).sum()


@pytest.mark.parametrize("objective", ["trades", "pgd"])
def test_weights_and_smoothing_of_a_classifier(objective):
    run = FinetuneRun(
        mode="full",
        objective=objective,
        model=MODEL,
        label_smoothing=REAL_SMOOTHING,
        generated=GeneratedLabelsConfig(weight=WEIGHT, label_smoothing=SMOOTHING),
        attack=ClassifierAttackConfig(eps=0.1, steps=1),
    )
    step = make_step(run, SHAPE, World())
    step.net.double()
    mixed, x_adv = batch(), batch().images_BCHW + 0.05
    got = step.loss(mixed, x_adv).loss
    clean, adv = step.net(mixed.images_BCHW), step.net(x_adv)
    losses, weights = [], []
    for i, label in enumerate(mixed.labels_G):
        generated = bool(mixed.generated_G[i])
        part = smoothed((clean if objective == "trades" else adv)[i], label, SMOOTHING if generated else REAL_SMOOTHING)
        if objective == "trades":
            part = part + run.beta * kl_to_clean(adv[i : i + 1], clean[i : i + 1])[0]
        losses.append(part)
        weights.append(WEIGHT if generated else 1.0)
    want = sum(w * loss for w, loss in zip(weights, losses, strict=True)) / sum(weights)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=0)


@pytest.mark.parametrize("anchors", ["adversarial", "both"])
def test_weights_of_anchors(anchors):
    method = MethodConfig(keys="both", anchors=anchors)
    g = torch.Generator().manual_seed(1)
    z = torch.nn.functional.normalize(torch.randn(24, 8, generator=g, dtype=torch.float64), dim=1)
    z_adv, z_clean = z[:12], z[12:]
    mixed = batch()
    got = Contrast(method, 3).loss(z_adv, z_clean, mixed, WEIGHT)
    keys, labels = torch.cat([z_clean, z_adv]), mixed.labels_G.repeat(2)
    total = weights = 0.0
    for i in range(12):
        weight = WEIGHT if mixed.generated_G[i] else 1.0
        for own, place in ((z_adv, 12 + i), (z_clean, i))[: 1 if anchors == "adversarial" else 2]:
            one = afa_loss(
                own[i : i + 1], keys, mixed.labels_G[i : i + 1], labels, temperature=method.temperature,
                self_A=torch.tensor([place]),
            )  # fmt: skip
            total, weights = total + weight * one, weights + weight
    torch.testing.assert_close(got, total / weights, rtol=1e-10, atol=0)


def test_pre_training_weighs_its_probe_as_well_and_weight_one_changes_nothing():
    run = PretrainRun(model=MODEL, generated=GeneratedConfig(weight=1.0))
    x_adv = batch().images_BCHW + 0.05

    def loss(run, of):
        step = make_step(run, SHAPE, World())
        step.net.double()
        return step.loss(of, x_adv).loss

    assert loss(run, batch()) == loss(run, batch(generated=False))
    assert loss(dataclasses.replace(run, generated=GeneratedConfig(weight=0.5)), batch()) != loss(run, batch())
