"""What a set is worth: the Fréchet distance by its formula, and the figures of sets whose worth is known."""

import json
import sys

import numpy as np
import pytest
import scipy.linalg
import torch

from afa_dist.cli.generating import main
from afa_dist.diffusion.frechet import against_halves, frechet_distance
from afa_dist.diffusion.inspection import inspect
from tests.data.preparing import prepared


def naive(one, other):
    """With scipy's root of a matrix that is not symmetric, as in the original code of FID."""
    mean, mean_other, c, c_other = one.mean(0), other.mean(0), np.cov(one, rowvar=False), np.cov(other, rowvar=False)
    root = scipy.linalg.sqrtm(c @ c_other).real
    return ((mean - mean_other) ** 2).sum() + np.trace(c + c_other - 2 * root)


@pytest.mark.parametrize("count", [60, 9])  # with nine images of 16 features the covariances have no inverse
def test_the_distance_is_that_of_the_formula(count):
    random = np.random.default_rng(count)
    one = random.normal(size=(count, 16)) @ random.normal(size=(16, 16))
    other = random.normal(size=(80, 16)) + 0.5
    found = frechet_distance(torch.from_numpy(one), torch.from_numpy(other))
    assert found == pytest.approx(naive(one, other), rel=1e-6 if count > 16 else 1e-3)
    assert frechet_distance(torch.from_numpy(one), torch.from_numpy(one)) == pytest.approx(0, abs=1e-4)


def test_images_like_the_real_ones_are_as_far_as_other_real_ones():
    g = torch.Generator().manual_seed(0)
    real, alike = torch.randn(600, 8, generator=g), torch.randn(400, 8, generator=g)
    drawn, between = (np.array(found) for found in against_halves(alike, real, 8, seed=0))
    assert abs(drawn.mean() - between.mean()) < 3 * (drawn.std() + between.std())
    shifted, _ = against_halves(alike + 1, real, 8, seed=0)
    assert np.mean(shifted) == pytest.approx(8 + between.mean(), rel=0.1)
    assert against_halves(alike, real, 8, seed=0) == against_halves(alike, real, 8, seed=0)


def test_real_images_agree_and_wrong_labels_do_not(trained, digits):
    test = digits.test
    found = inspect(trained, test, digits.train, 4, 0, lambda more: None)
    with torch.no_grad():
        right = (trained(test.images_NCHW.float() / 255).argmax(1) == test.labels_N).float().mean().item()
    assert found["agreement"]["accuracy"] == pytest.approx(right)
    assert found["frechet"]["drawn_to_real"]["mean"] < 3 * found["frechet"]["real_to_real"]["mean"]
    assert found["frechet"]["images_each"] == len(test)


def test_the_command_looks_at_a_set_and_writes_its_figures(digits, trained_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    images = digits.test.images_NCHW[:200].permute(0, 2, 3, 1).numpy()
    np.savez("set.npz", image=images, label=digits.test.labels_N[:200].numpy())
    prepared("set.npz", "set", classes=tuple("0123456789"), shard_size=100)

    def look(*words):
        monkeypatch.setattr(sys, "argv", ["generate.py", "inspect", *words])
        return main("generate.py", ""), "".join(capsys.readouterr())

    code, said = look("--samples", "set", "--classifier", str(trained_run.path), "--threads", "1")
    assert code == 0 and "sees the class of the label in" in said and "real and other real" in said, said
    record = json.loads((tmp_path / "set/inspection.json").read_text())
    assert record["images"] == 200 and 0.5 < record["agreement"]["accuracy"] <= 1
    assert record["part_in_set"] == "" and "Warning" not in said
    recorded = json.loads((tmp_path / "set/dataset.json").read_text())
    scored = {**recorded, "made_by": {"scorer_sha256": record["classifier_sha256"]}}
    (tmp_path / "set/dataset.json").write_text(json.dumps(scored))
    code, said = look("--samples", "set", "--classifier", str(trained_run.path), "--threads", "1", "--dry-run")
    assert code == 0 and "was the scorer of these images" in said, said
    np.savez("one.npz", image=images[:1], label=digits.test.labels_N[:1].numpy())
    prepared("one.npz", "one", classes=tuple("0123456789"))
    for words, mistake in (
        (["--samples", "one", "--classifier", str(trained_run.path)], "samples: one has 1 image; distances need 2"),
        (["--classifier", str(trained_run.path)], "samples: missing"),
        (["--samples", "set", "--classifier", "nothing"], "classifier: "),
        (["--samples", "nothing", "--classifier", str(trained_run.path)], "samples: nothing is not a folder"),
    ):
        code, said = look(*words)
        assert code == 2 and mistake in said and "Traceback" not in said, said
