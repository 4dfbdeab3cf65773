"""Every option of classifier training changes what it says."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from afa_dist.attacks import attack_mode, cross_entropy, kl_to_clean
from afa_dist.config import ClassifierAttackConfig, FinetuneRun, MethodConfig, ModelConfig
from afa_dist.data.loader import Batch
from afa_dist.distributed import World
from afa_dist.errors import UserError
from afa_dist.models.build import DataShape, build_classifier
from afa_dist.training import finetune
from afa_dist.training.finetune import FinetuneStep
from afa_dist.training.job import make_step
from tests.losses.naive import dense_afa_loss

SHAPE = DataShape(1, (0.3,), (0.4,), tuple("abc"))
BASE = FinetuneRun(
    mode="full",
    objective="trades",
    afa_weight=0.5,
    model=ModelConfig(width=8, norm="group", projection_dim=16),
    attack=ClassifierAttackConfig(eps=0.1, steps=3),
)


def batch():
    g = torch.Generator().manual_seed(3)
    return Batch(torch.rand(32, 1, 8, 8, generator=g), torch.arange(32) % 3, 0)


def test_the_smoothing_of_pgd_training_is_that_of_its_cross_entropy():
    step = step_of(objective="pgd", afa_weight=0.0, label_smoothing=0.1)
    x_adv = step.attack(batch(), 0, 0.1)
    log_p, y = step.net(x_adv).log_softmax(1), batch().labels_B
    target = 0.9 * F.one_hot(y, 3) + 0.1 / 3
    assert step.loss(batch(), x_adv).loss.item() == pytest.approx(-(target * log_p).sum(1).mean().item(), rel=1e-5)


@pytest.mark.parametrize("objective", ["trades", "pgd"])
def test_batchnorm_in_the_attack_is_an_option(objective):
    """With the statistics of the batch instead of those collected, gradients differ, and so do the images."""
    normed = {"objective": objective, "model_of_norm": "batch"}
    x_adv = [step_of(**normed, attack_of_bn=bn).attack(batch(), 0, 0.1) for bn in ("batch", "eval", "eval")]
    assert not torch.equal(x_adv[0], x_adv[1])
    assert torch.equal(x_adv[1], x_adv[2])


def step_of(**changes):
    """The step of BASE with changes; `attack_of_steps` is option `steps` of section `attack`."""
    fields = {}
    for name, value in changes.items():
        section, _, option = name.rpartition("_of_")
        if section:
            value = dataclasses.replace(fields.get(section, getattr(BASE, section)), **{option: value})
        fields[section or option] = value
    return make_step(dataclasses.replace(BASE, **fields), SHAPE, World())


def output(step):
    return step.loss(batch(), step.attack(batch(), 0, step.run.attack.eps))


def loss(**changes):
    return output(step_of(**changes)).loss.item()


@pytest.mark.parametrize(
    "change",
    [
        {"objective": "pgd"},
        {"objective": "ce", "afa_weight": 0.0},
        {"beta": 3.0},
        {"afa_weight": 0.0},
        {"afa_weight": 1.0},
        {"label_smoothing": 0.1},
        {"attack_of_objective": "ce"},
        {"attack_of_objective": "afa"},
        {"attack_of_algorithm": "fgsm-rs"},
        {"attack_of_algorithm": "n-fgsm"},
        {"attack_of_steps": 1},
        {"method_of_temperature": 0.2},
        {"method_of_keys": "both"},
        {"method_of_keys": "adversarial"},
        {"method_of_anchors": "both"},
        {"method_of_own_copy": "excluded"},
        {"method_of_denominator": "negatives"},
        {"method_of_layer": "penultimate"},
    ],
    ids=str,
)
def test_every_option_changes_the_loss(change):
    assert loss(**change) != loss()


def test_linear_mode_trains_the_classifier_alone():
    run = dataclasses.replace(BASE, afa_weight=0.0, mode="linear", init="given")
    net = build_classifier(run.model, SHAPE)
    step = FinetuneStep(net, run)
    assert {id(p) for p in step.parameters()} == {id(p) for p in net.linear.parameters()}
    output(step).loss.backward()
    assert all(p.grad is None for p in net.encoder.parameters())


def test_joint_is_the_sum_of_its_parts():
    """CE + beta KL + lambda AFA, each part from its own definition."""
    step = step_of()
    b, x_adv = batch(), step.attack(batch(), 0, 0.1)
    clean, adv = step.net(b.images_BCHW), step.net(x_adv)
    z_clean, z_adv = step.net.embed(b.images_BCHW), step.net.embed(x_adv)
    afa = step.contrast.loss(z_adv, z_clean, b).mean()
    kl = F.kl_div(adv.log_softmax(1), clean.softmax(1), reduction="batchmean")
    expected = F.cross_entropy(clean, b.labels_B) + 6.0 * kl + 0.5 * afa
    got = step.loss(b, x_adv).loss
    assert got.item() == pytest.approx(expected.item(), rel=1e-5)
    # Through both branches: the clean prediction is a target in the attack only.
    for ours, written_out in zip(*(torch.autograd.grad(v, step.parameters()) for v in (got, expected)), strict=True):
        torch.testing.assert_close(ours, written_out, rtol=1e-3, atol=1e-5)


def values(step, x):
    """What each attack objective maximises, for images x, in evaluation mode; shape (B,) each."""
    b = batch()
    with attack_mode(step.net), torch.no_grad():
        clean, logits = step.net(b.images_BCHW), step.net(x)
        z, keys, own = step.net.embed(x), step.net.embed(b.images_BCHW), torch.arange(len(x))
        t = step.run.method.temperature
        afa = dense_afa_loss(z, keys, b.labels_B, b.labels_B, temperature=t, own_copy_A=own)
    return {"ce": cross_entropy(logits, b.labels_B), "kl": kl_to_clean(logits, clean), "afa": afa}


@pytest.mark.parametrize("objective", ["ce", "kl", "afa"])
def test_the_attack_raises_its_own_objective(objective):
    step = step_of(attack_of_objective=objective, attack_of_steps=10)
    b = batch()
    x_adv = step.attack(b, 0, 0.1)
    assert (x_adv - b.images_BCHW).abs().max() <= 0.1 + 1e-6
    before, after = values(step, b.images_BCHW)[objective], values(step, x_adv)[objective]
    assert (after > before).float().mean() > 0.95
    others = [values(make, make.attack(b, 0, 0.1))[objective].mean() for make in others_than(objective)]
    assert all(after.mean() >= other for other in others)


def others_than(objective):
    return [step_of(attack_of_objective=o, attack_of_steps=10) for o in ("ce", "kl", "afa") if o != objective]


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_the_attack_does_not_follow_the_clean_prediction(norm, monkeypatch):
    """The target of the KL divergence is made once, without gradient, whoever made it."""
    step = step_of(model_of_norm=norm)
    targets = []
    monkeypatch.setattr(finetune, "kl_to_clean", lambda logits, clean: targets.append(clean) or kl_to_clean(logits, clean))
    step.attack(batch(), 0, 0.1)
    assert len(targets) == 3
    assert all(target is targets[0] and not target.requires_grad for target in targets)


def test_gradient_reaches_classifier_encoder_and_head():
    step = step_of()
    output(step).loss.backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in step.net.parameters())


def test_n_fgsm_may_leave_the_ball_and_keeps_to_pixels():
    step = step_of(attack_of_algorithm="n-fgsm")
    x = batch().images_BCHW
    x_adv = step.attack(batch(), 0, 0.1)
    reach = (x_adv - x).abs().max()
    assert 0.1 < reach <= 0.3 + 1e-6
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    rs = step_of(attack_of_algorithm="fgsm-rs").attack(batch(), 0, 0.1)
    assert (rs - x).abs().max() <= 0.1 + 1e-6


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"afa_weight": 0.0, "attack": ClassifierAttackConfig(objective="afa")}, "attack.objective"),
        ({"mode": "linear", "init": "runs/x"}, "afa_weight"),
        ({"objective": "ce"}, "afa_weight"),
        ({"method": MethodConfig(views="independent")}, "method.views"),
        ({"attack": ClassifierAttackConfig(random_start=False)}, "attack.random_start"),
    ],
)
def test_what_cannot_work_is_refused(changes, where):
    with pytest.raises(UserError) as error:
        dataclasses.replace(BASE, **changes)
    assert [problem.where for problem in error.value.problems] == [where]


def test_n_fgsm_is_for_linf():
    with pytest.raises(UserError, match="n-fgsm"):
        ClassifierAttackConfig(algorithm="n-fgsm", norm="l2")
