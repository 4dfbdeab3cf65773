"""Every option of the method changes what it says."""

import dataclasses

import pytest
import torch

from afa_dist.attacks import attack_mode
from afa_dist.config import ContrastiveAttackConfig, DataConfig, MethodConfig, ModelConfig, PretrainRun
from afa_dist.data.loader import Batch
from afa_dist.distributed import World
from afa_dist.models.build import DataShape
from afa_dist.training.job import data_shape, make_step
from afa_dist.training.robust import RobustTrainer
from afa_dist.training.run_dir import RunDirectory
from tests.losses.naive import dense_afa_loss

SHAPE = DataShape(1, (0.3,), (0.4,), tuple("abc"))


def batch(two_views=False):
    g = torch.Generator().manual_seed(3)
    x, second = torch.rand(2, 32, 1, 8, 8, generator=g)
    return Batch(x, torch.arange(32) % 3, 0, second if two_views else None)


def step_of(model_norm="group", **changes):
    """A step with options changed; `keys` is the loss's, `attack_keys` the attack's."""
    fields = {field.name for field in dataclasses.fields(MethodConfig)}
    method = {name: value for name, value in changes.items() if name in fields}
    attack = {name.removeprefix("attack_"): value for name, value in changes.items() if name not in fields}
    run = PretrainRun(
        model=ModelConfig(width=8, norm=model_norm, projection_dim=16),
        method=MethodConfig(**method),
        attack=ContrastiveAttackConfig(**{"eps": 0.1, "steps": 3} | attack),
    )
    return make_step(run, SHAPE, World())


def output(step, eps=0.1):
    b = batch(step.run.method.views == "independent")
    return step.loss(b, step.attack(b, 0, eps))


def loss(**changes):
    return output(step_of(**changes)).loss.item()


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 0.2},
        {"keys": "adversarial"},
        {"keys": "both"},
        {"anchors": "both"},
        {"own_copy": "excluded"},
        {"denominator": "negatives"},
        {"layer": "penultimate"},
        {"objective": "ce"},
        {"objective": "kl"},
        {"steps": 1},
        {"step_size": 0.01},
        {"random_start": False},
        {"norm": "l2"},
        {"algorithm": "fgsm-rs"},
        {"algorithm": "n-fgsm"},
        {"views": "independent"},
    ],
    ids=str,
)
def test_every_option_changes_the_loss(change):
    assert loss(**change) != loss()


def test_attack_keys_matter_only_when_the_loss_has_others():
    assert loss(keys="both", attack_keys="clean") != loss(keys="both")
    assert loss(keys="clean", attack_keys="clean") == loss(keys="clean")


def test_batchnorm_in_the_attack_is_an_option():
    x_adv = [step_of(model_norm="batch", attack_bn=bn).attack(batch(), 0, 0.1) for bn in ("batch", "eval")]
    assert not torch.equal(*x_adv)


def attack_value(step, x_adv):
    """The AFA loss of x_adv against clean keys, in evaluation mode."""
    b = batch()
    with attack_mode(step.net), torch.no_grad():
        z, keys = step.net.embed(x_adv), step.net.embed(b.images_BCHW)
    return dense_afa_loss(z, keys, b.labels_B, b.labels_B, temperature=0.1, own_copy_A=torch.arange(32))


def test_attack_raises_the_afa_loss_of_every_image():
    step = step_of()
    x_adv = step.attack(batch(), 0, 0.1)
    assert (attack_value(step, x_adv) > attack_value(step, batch().images_BCHW)).all()
    assert (x_adv - batch().images_BCHW).abs().max() <= 0.1 + 1e-6


def test_eps_zero_is_clean_supervised_contrast():
    step = step_of(eps=0.0)
    b = batch()
    assert torch.equal(step.attack(b, 0, 0.0), b.images_BCHW)
    z = step.net.embed(b.images_BCHW)
    clean = dense_afa_loss(z, z, b.labels_B, b.labels_B, temperature=0.1).mean()
    probe = torch.nn.functional.cross_entropy(step.net.classify(b.images_BCHW), b.labels_B)
    assert output(step, 0.0).loss.item() == pytest.approx((clean + probe).item(), rel=1e-5)


@pytest.mark.parametrize("views", ["same", "independent"])
def test_a_run_trains_on_the_views_that_it_asks_for(views, digits, tmp_path):
    run = PretrainRun(data=DataConfig(crop_padding=1), method=MethodConfig(views=views), model=ModelConfig(width=8))
    step = make_step(run, data_shape(digits), World())
    batch = RobustTrainer(step, run, digits, RunDirectory(tmp_path), World(), lambda row: None).loader.batch(0)
    assert torch.equal(batch.images_BCHW, batch.other_view) == (views == "same")


def test_two_clean_views_are_supcon():
    """eps 0, both keys and anchors, independent views: SupCon (2004.11362, eq. 2) over 2N views, written out."""
    step = step_of(eps=0.0, keys="both", anchors="both", views="independent")
    b = batch(two_views=True)
    z = step.net.embed(torch.cat([b.images_BCHW, b.second_BCHW])).double()
    y = torch.cat([b.labels_B, b.labels_B]).tolist()
    terms = []
    for i in range(64):
        others = [a for a in range(64) if a != i]
        denominator = torch.stack([(z[i] @ z[a] / 0.1).exp() for a in others]).sum()
        positives = [p for p in others if y[p] == y[i]]
        terms.append(-sum(((z[i] @ z[p] / 0.1).exp() / denominator).log() for p in positives) / len(positives))
    probe = torch.nn.functional.cross_entropy(step.net.classify(b.images_BCHW), b.labels_B)
    got = output(step, 0.0).loss
    assert got.item() == pytest.approx((torch.stack(terms).mean() + probe).item(), rel=1e-5)


@pytest.mark.parametrize("keys", ["clean", "both"])
def test_bf16_passes_still_compute_the_loss_in_fp32(keys):
    step = step_of(keys=keys)
    step.bf16 = True
    b = batch()
    with attack_mode(step.net), torch.autocast("cpu", dtype=torch.bfloat16):
        inside = step.objective(b)(b.images_BCHW)
    assert inside.dtype == torch.float32
    out = output(step)
    out.loss.backward()
    assert out.loss.dtype == torch.float32
    assert out.loss.item() == pytest.approx(loss(keys=keys), rel=0.02)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in step.parameters())


def test_the_probe_does_not_shape_the_features():
    step = step_of()
    out = output(step)
    probe_only = torch.autograd.grad(out.loss, list(step.net.probe.parameters()), retain_graph=True)
    assert all(g.abs().max() > 0 for g in probe_only)
    x = batch().images_BCHW
    logits = step.net(x).probe_logits_BK
    grads = torch.autograd.grad(logits.sum(), list(step.net.encoder.parameters()), allow_unused=True)
    assert all(g is None for g in grads)
