"""What counts as robust, and that it does not depend on how the work is cut."""

import dataclasses
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import binomtest
from torch import nn

from afa_dist.attacks import Ball, attack_mode
from afa_dist.config import DataConfig
from afa_dist.config.attack_names import AUTOATTACK, STANDARD
from afa_dist.data.catalogue import load_part
from afa_dist.evaluation.shards import STANDING, evaluate_shard, shard_starts
from afa_dist.evaluation.summary import summarise, wilson_interval, write_per_image
from afa_dist.models.export import load_classifier

ATTACKS = ("pgd-5", "pgd-10x3")


def evaluate(net, test, shard_size, eps=0.1, attacks=ATTACKS, seed=0):
    starts = shard_starts(len(test), shard_size)
    return [evaluate_shard(net, test, start, shard_size, attacks, Ball("linf", eps), seed) for start in starts]


def test_shards_of_any_size_give_the_same_images(trained, digits, tmp_path):
    tables = []
    for size in (48, 112, 368):
        shards = evaluate(trained, digits.test, size)
        assert len(shards) == -(-360 // size)
        write_per_image(tmp_path / "per_image.parquet", shards)
        tables.append(pq.read_table(tmp_path / "per_image.parquet"))
    assert tables[0].equals(tables[1])
    assert tables[0].equals(tables[2])
    assert tables[0]["index"].to_pylist() == list(range(360))
    assert tables[0]["label"].to_pylist() == digits.test.labels_N.tolist()
    broken_by = tables[0]["broken_by"].to_pylist()
    assert {"pgd-5", "pgd-10x3", None} <= set(broken_by)  # else there was nothing to compare


def test_accuracy_counts_images_right_clean_and_under_every_attack(trained, digits):
    shards = evaluate(trained, digits.test, 368)
    summary = summarise(shards, ATTACKS)["accuracies"]
    x, y = digits.test.images_NCHW.float() / 255, digits.test.labels_N
    clean = (trained(x).argmax(1) == y).sum().item()
    broken_by = shards[0].broken_by_N
    assert summary["clean"]["right"] == clean == 360 - broken_by.count("clean")
    assert summary["pgd-5"]["right"] == clean - broken_by.count("pgd-5")
    assert summary["pgd-10x3"]["right"] == broken_by.count(STANDING)
    assert summary["clean"]["accuracy"] > summary["pgd-5"]["accuracy"] > summary["pgd-10x3"]["accuracy"]
    alone = summarise(evaluate(trained, digits.test, 368, attacks=("pgd-10x3",)), ("pgd-10x3",))["accuracies"]
    assert alone["pgd-10x3"]["right"] >= summary["pgd-10x3"]["right"]


class Times(nn.Module):
    """A network whose logits are multiplied: the same answers, other gradients."""

    def __init__(self, net, factor):
        super().__init__()
        self.net, self.factor = net, factor

    def forward(self, x):
        return self.net(x) * self.factor


def test_logits_that_are_huge_fool_the_cross_entropy_and_not_the_margin(trained, digits):
    """The softmax saturates in float32, and its gradient is zero; the margin's is not."""
    few = digits.test.subset(np.arange(96))
    plain = {name: evaluate(trained, few, 96, attacks=(name,))[0].broken_by_N.count(name) for name in OBJECTIVE_NAMES}
    huge = {
        name: evaluate(Times(trained, 1e4), few, 96, attacks=(name,))[0].broken_by_N.count(name) for name in OBJECTIVE_NAMES
    }
    assert min(plain.values()) > 10
    assert huge["margin-20"] == plain["margin-20"]
    assert huge["pgd-20"] < plain["pgd-20"] / 2


OBJECTIVE_NAMES = ("pgd-20", "margin-20", "scaled-20")


def test_the_standard_attacks_are_run_one_by_one(quick, few):
    summary = summarise(evaluate(quick, few, 64, attacks=("standard",)), ("standard",))["accuracies"]
    assert list(summary) == ["clean", *STANDARD, "autoattack"]
    right = [entry["right"] for entry in summary.values()]
    assert right == sorted(right, reverse=True)


def test_eps_zero_is_clean_accuracy_and_a_huge_eps_breaks_everything(trained, digits):
    nothing = summarise(evaluate(trained, digits.test, 368, eps=0.0), ATTACKS)["accuracies"]
    assert nothing["pgd-10x3"]["right"] == nothing["clean"]["right"]
    everything = summarise(evaluate(trained, digits.test, 368, eps=1.0), ATTACKS)["accuracies"]
    assert everything["pgd-10x3"]["accuracy"] < 0.02


def test_held_out_images_can_be_measured_instead_of_test_images(digits):
    assert torch.equal(load_part(DataConfig(), "held_out").images_NCHW, digits.held_out.images_NCHW)
    assert torch.equal(load_part(DataConfig(), "test").images_NCHW, digits.test.images_NCHW)


def test_wilson_interval_equals_scipy():
    for right, images in ((0, 10), (3, 10), (360, 360), (251, 360), (1, 1)):
        want = binomtest(right, images).proportion_ci(method="wilson")
        assert wilson_interval(right, images) == pytest.approx((want.low, want.high), abs=1e-12)


def test_the_exported_model_is_json_and_safetensors_and_gives_the_same_logits(trained, digits, tmp_path):
    from afa_dist.config import FinetuneRun, ModelConfig
    from afa_dist.models.build import DataShape
    from afa_dist.models.export import save_classifier

    mean, std = digits.train.pixel_statistics()
    run = FinetuneRun(mode="full", model=ModelConfig(width=8, norm="group"))
    save_classifier(tmp_path, trained.state_dict(), run, DataShape(1, mean, std, digits.train.classes))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    assert json.loads((tmp_path / "config.json").read_text())["threat"] == {"norm": "linf", "eps": 8 / 255}
    x = digits.test.images_NCHW[:32].float() / 255
    again = load_classifier(tmp_path)
    assert not again.net.training
    assert torch.equal(again.net(x), trained(x))
    assert np.isfinite(again.net(x).detach().numpy()).all()


@pytest.fixture(scope="module")
def few(digits):
    return digits.test.subset(np.arange(64))


@pytest.fixture(scope="module")
def quick(digits):
    """Two layers without convolutions: AutoAttack's thousands of passes take seconds."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
    x, y = digits.train.images_NCHW.float() / 255, digits.train.labels_N
    for _ in range(60):
        optimiser.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimiser.step()
    return net


def test_autoattack_gives_the_robust_accuracy_of_the_published_code(quick, few):
    """The parts one by one, on images still standing, against the package's own evaluation of all images."""
    from pyautoattack import AutoAttack

    ours = summarise(evaluate(quick, few, 64, attacks=("autoattack",)), ("autoattack",))["accuracies"]
    x, y = few.images_NCHW.float() / 255, few.labels_N
    with attack_mode(quick):
        whole = AutoAttack(quick, norm="Linf", eps=0.1, version="standard", seed=3)
        _, y_adv = whole.run_standard_evaluation(x, y, batch_size=64)
    theirs = (y_adv == y).sum().item()
    assert abs(ours["autoattack"]["right"] - theirs) <= 1
    assert 0 < theirs < ours["clean"]["right"]  # there was something to break, and something stood
    assert ours["square"] == ours["autoattack"]


@pytest.mark.parametrize("name", AUTOATTACK)
def test_every_part_breaks_images_by_itself(quick, few, name):
    (shard,) = evaluate(quick, few, 64, eps=0.15, attacks=(name,))
    assert shard.broken_by_N.count(name) > 10


@pytest.mark.parametrize("name", AUTOATTACK)
def test_every_part_breaks_images_of_few_classes(quick, digits, name):
    """Targeted attacks have nine targets by default; here there are three."""
    rows = np.flatnonzero(digits.test.labels_N.numpy() < 4)[:64]
    few = dataclasses.replace(digits.test.subset(rows), classes=digits.test.classes[:4])
    (shard,) = evaluate(FirstFour(quick), few, 64, eps=0.15, attacks=(name,))
    assert shard.broken_by_N.count(name) > 10


class FirstFour(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x)[:, :4]


def test_autoattack_repeats_itself_and_leaves_the_generators_alone(trained, few):
    before = torch.get_rng_state()
    first = evaluate(trained, few, 32, attacks=("pgd-5", "apgd-ce"))
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    second = evaluate(trained, few, 32, attacks=("pgd-5", "apgd-ce"))
    assert [s.broken_by_N for s in first] == [s.broken_by_N for s in second]


def test_images_outside_the_ball_do_not_count_as_broken(trained, few, monkeypatch):
    """An attack of another library that oversteps the threat model must not lower the figure."""
    far = lambda net, x, *rest: 1 - x  # noqa: E731
    monkeypatch.setattr("afa_dist.evaluation.shards.autoattack_part", far)
    (shard,) = evaluate(trained, few, 64, attacks=("apgd-ce",))
    assert "apgd-ce" not in shard.broken_by_N
