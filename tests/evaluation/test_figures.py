"""What counts as robust, and that it does not depend on how the work is cut."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from afa_dist.attacks import attack_mode
from afa_dist.config import DataConfig
from afa_dist.config.attack_names import AUTOATTACK, PARTS, STANDARD
from afa_dist.data.catalogue import load_part
from afa_dist.evaluation.summary import wilson_interval
from afa_dist.models.export import load_classifier
from tests.evaluation.helpers import Wrapped, rows_of, summary_of


def counts(folder, net, test, **options):
    """How many images each attack broke."""
    summary_of(folder, net, test, **options)
    broken_by = rows_of(folder, options.get("name", "run"))["broken_by"].to_pylist()
    return {name: broken_by.count(name) for name in {*broken_by, *options["attacks"]}}


def test_shards_and_batches_of_any_size_give_the_same_images(trained, digits, tmp_path):
    tables = []
    for size, batch in ((50, 250), (112, 48), (368, 90)):
        name = f"size{size}"
        summary_of(tmp_path, trained, digits.test, name=name, shard_size=size, batch_size=batch)
        tables.append(rows_of(tmp_path, name).select(["index", "label", "prediction", "broken_by", "adv_prediction"]))
    assert tables[0].equals(tables[1])
    assert tables[0].equals(tables[2])
    assert tables[0]["index"].to_pylist() == list(range(360))
    assert tables[0]["label"].to_pylist() == digits.test.labels_N.tolist()
    assert {"pgd-5", "pgd-10x3", None} <= set(tables[0]["broken_by"].to_pylist())  # else there was nothing to compare


def test_accuracy_counts_images_right_clean_and_under_every_attack(trained, digits, tmp_path):
    summary = summary_of(tmp_path, trained, digits.test)
    found = summary["accuracies"]
    table = rows_of(tmp_path).to_pydict()
    x, y = digits.test.images_NCHW.float() / 255, digits.test.labels_N
    with torch.no_grad():
        logits = trained(x)
    clean = (logits.argmax(1) == y).sum().item()
    assert found["clean"]["right"] == clean == 360 - table["broken_by"].count("clean")
    assert found["pgd-5"]["right"] == clean - table["broken_by"].count("pgd-5")
    assert found["pgd-10x3"]["right"] == table["broken_by"].count(None)
    assert found["clean"]["accuracy"] > found["pgd-5"]["accuracy"] > found["pgd-10x3"]["accuracy"]
    assert summary["label"] == "an upper bound: not AutoAttack"
    alone = summary_of(tmp_path, trained, digits.test, name="alone", attacks=("pgd-10x3",))["accuracies"]
    assert alone["pgd-10x3"]["right"] >= found["pgd-10x3"]["right"]
    # The rows say what there is to say of each image.
    right = logits.gather(1, y[:, None]).squeeze(1)
    others = logits.scatter(1, y[:, None], -torch.inf).amax(1)
    assert table["margin"] == pytest.approx((right - others).tolist(), abs=1e-4)
    for by, label, adv, margin, linf, l2 in zip(
        *(table[k] for k in ("broken_by", "label", "adv_prediction", "adv_margin", "linf", "l2")), strict=True
    ):
        if by in (None, "clean"):
            assert (margin, linf, l2) == (None, None, None)
            assert (adv == label) == (by is None)
        else:
            assert adv != label and margin < 0
            assert 0 < linf <= 0.1 + 1e-6 <= l2 + 0.1


@pytest.mark.parametrize("norm,eps", [("linf", 0.1), ("l2", 0.8)])
def test_every_adversarial_image_is_kept_and_holds(trained, digits, tmp_path, norm, eps):
    """By hand, from the files: inside the ball, inside the pixel range, and classified as the table says."""
    from safetensors.torch import load_file

    summary = summary_of(tmp_path, trained, digits.test, norm=norm, eps=eps, shard_size=180)
    table = rows_of(tmp_path).to_pydict()
    seen = 0
    for file in sorted((tmp_path / "run/evaluation/shards").glob("*pgd*")):
        kept = load_file(file)
        indices, x_adv = kept["indices_R"], kept["x_adv_RCHW"]
        x, y = digits.test.images_NCHW[indices].float() / 255, digits.test.labels_N[indices]
        delta = (x_adv - x).flatten(1)
        size = delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)
        assert x_adv.min() >= 0 and x_adv.max() <= 1 and size.max() <= eps + 1e-5
        predictions = trained(x_adv).argmax(1)
        assert (predictions != y).all()
        assert predictions.tolist() == [table["adv_prediction"][i] for i in indices]
        assert size.tolist() == pytest.approx([table[norm][i] for i in indices], abs=1e-6)
        seen += len(indices)
    assert seen == summary["rechecked"]["images"] > 20
    assert summary["rechecked"]["failed"] == []


def test_logits_that_are_huge_fool_the_cross_entropy_and_not_the_margin(trained, digits, tmp_path):
    """The softmax saturates in float32, and its gradient is zero; the margin's is not."""
    few = digits.test.subset(np.arange(96))
    huge = Wrapped(trained, lambda logits: 1e4 * logits)
    found = {}
    for name in ("pgd-20", "margin-20", "scaled-20"):
        plain = counts(tmp_path, trained, few, name=f"plain-{name}", attacks=(name,))[name]
        found[name] = (plain, counts(tmp_path, huge, few, name=f"huge-{name}", attacks=(name,))[name])
    assert min(plain for plain, _ in found.values()) > 10
    assert found["margin-20"][0] == found["margin-20"][1]
    assert found["pgd-20"][1] < found["pgd-20"][0] / 2
    together = summary_of(tmp_path, huge, few, name="both", attacks=("pgd-20", "margin-20"))
    assert any("have no gradient" in warning for warning in together["warnings"])


def test_the_standard_attacks_are_run_one_by_one(quick, few, tmp_path):
    summary = summary_of(tmp_path, quick, few, attacks=("standard",))
    found = summary["accuracies"]
    assert list(found) == ["clean", *STANDARD, "autoattack"]
    assert summary["label"] == "AutoAttack and PGD"
    right = [entry["right"] for entry in found.values()]
    assert right == sorted(right, reverse=True)


def test_half_of_autoattack_is_never_called_by_its_name(quick, few, tmp_path):
    summary = summary_of(tmp_path, quick, few, fast=True, attacks=("pgd-20", "pgd-50x10"))
    assert list(summary["accuracies"]) == ["clean", "apgd-ce", "apgd-t"]
    assert summary["label"] == "fast: APGD-CE and APGD-T, not AutoAttack"
    broken = summary_of(tmp_path, quick, few, name="parts", attacks=("square", "apgd-t", "apgd-ce"))
    assert "autoattack" not in broken["accuracies"] and "not AutoAttack" in broken["label"]


def test_eps_zero_is_clean_accuracy_and_a_huge_eps_breaks_everything(trained, digits, tmp_path):
    summary = summary_of(tmp_path, trained, digits.test, eps=0.0, attacks=("standard",))
    assert summary["label"].endswith("not AutoAttack")
    nothing = summary["accuracies"]
    assert len({entry["right"] for entry in nothing.values()}) == 1 and len(nothing) == 9 and "autoattack" not in nothing
    everything = summary_of(tmp_path, trained, digits.test, name="huge", eps=1.0)["accuracies"]
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


@pytest.mark.parametrize("version,norm,eps", [("standard", "linf", 0.1), ("standard", "l2", 0.8), ("rand", "linf", 0.1)])
def test_autoattack_gives_the_robust_accuracy_of_the_published_code(quick, few, tmp_path, version, norm, eps):
    """The parts one by one, on images still standing, against the package's own evaluation of all images."""
    from pyautoattack import AutoAttack

    name = {"standard": "autoattack"}.get(version, version)
    ours = summary_of(tmp_path, quick, few, attacks=(name,), norm=norm, eps=eps)["accuracies"]
    ours_right = ours["autoattack" if version == "standard" else "autoattack-rand"]["right"]
    x, y = few.images_NCHW.float() / 255, few.labels_N
    with attack_mode(quick):
        whole = AutoAttack(quick, norm={"linf": "Linf", "l2": "L2"}[norm], eps=eps, version=version, seed=3)
        _, y_adv = whole.run_standard_evaluation(x, y, batch_size=64)
    theirs = (y_adv == y).sum().item()
    assert abs(ours_right - theirs) <= 1
    assert 0 < theirs < ours["clean"]["right"]  # there was something to break, and something stood


@pytest.mark.parametrize("name", PARTS)
def test_every_part_breaks_images_by_itself(quick, few, tmp_path, name):
    assert counts(tmp_path, quick, few, eps=0.15, attacks=(name,))[name] > 10


@pytest.mark.parametrize("name", AUTOATTACK)
def test_every_part_breaks_images_of_few_classes(quick, digits, tmp_path, name):
    """Targeted attacks have nine targets by default; here there are three."""
    rows = np.flatnonzero(digits.test.labels_N.numpy() < 4)[:64]
    few = dataclasses.replace(digits.test.subset(rows), classes=digits.test.classes[:4])
    first_four = Wrapped(quick, lambda logits: logits[:, :4])
    assert counts(tmp_path, first_four, few, eps=0.15, attacks=(name,))[name] > 10


def test_autoattack_repeats_itself_and_leaves_the_generators_alone(trained, few, tmp_path):
    before = torch.get_rng_state()
    options = {"attacks": ("pgd-5", "apgd-ce"), "shard_size": 32}
    summary_of(tmp_path, trained, few, name="one", **options)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    summary_of(tmp_path, trained, few, name="two", **options)
    assert rows_of(tmp_path, "one").equals(rows_of(tmp_path, "two"))


def test_images_outside_the_ball_do_not_count_as_broken(trained, few, tmp_path, monkeypatch):
    """An attack of another library that oversteps the threat model must not lower the figure."""
    far = lambda net, x, *rest: 1 - x  # noqa: E731
    monkeypatch.setattr("afa_dist.evaluation.attacking.autoattack_part", far)
    assert counts(tmp_path, trained, few, attacks=("apgd-ce",))["apgd-ce"] == 0
