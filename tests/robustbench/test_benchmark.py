"""The real robustbench, on a model that jobs/export.py wrote, measures what jobs/evaluate.py measured.

Run by `make test-robustbench`, in an environment of its own: robustbench pins old versions.
"""

import json
import sys
from importlib.metadata import version

import pytest
import robustbench
import timm
from robustbench.utils import ModelInfo, get_leaderboard_bibtex, get_leaderboard_latex

from afa_dist import RobustClassifier
from afa_dist.cli import evaluating, exporting
from afa_dist.models.export import save_classifier
from tests.robustbench.small_cifar10 import EPS, SHAPE, TEST_IMAGES, finetune_run, train_classifier, write_test_files


def run(main, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["job", *map(str, arguments)])
    assert main("job", "") == 0


@pytest.fixture(scope="module")
def classifier():
    return train_classifier()


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("norm", "threat", "eps", "radius"), [("linf", "Linf", EPS, "8/255"), ("l2", "L2", 1.3, "1.3")])
def test_robustbench_measures_what_we_measured(classifier, tmp_path, monkeypatch, norm, threat, eps, radius):
    monkeypatch.chdir(tmp_path)
    write_test_files(tmp_path / "data", monkeypatch)
    save_classifier(tmp_path / "model", classifier.state_dict(), finetune_run(tmp_path / "data"), SHAPE)
    evaluation = ["--threat.norm", norm, "--threat.eps", radius, "--attacks", "autoattack", "--scaling.workers", "0"]
    run(evaluating.main, monkeypatch, "--model", "model", "--name", "aa", *evaluation, "--scaling.threads", "1")
    run(exporting.main, monkeypatch, "--model", "model", "--evaluations", "runs/aa", "--folder", "exported")

    model = RobustClassifier.from_pretrained("exported")
    clean, robust = robustbench.benchmark(
        model, n_examples=TEST_IMAGES, dataset="cifar10", threat_model=threat, eps=eps, data_dir="data", batch_size=40
    )

    ours = json.loads((tmp_path / "runs/aa/evaluation/summary.json").read_text())["accuracies"]
    assert round(clean * TEST_IMAGES) == ours["clean"]["right"]
    assert abs(robust * TEST_IMAGES - ours["autoattack"]["right"]) <= 1.01
    assert 0 < ours["autoattack"]["right"] < ours["clean"]["right"]  # something stood, and something fell
    record = json.loads((tmp_path / "exported/robustbench.json").read_text())
    assert record["clean_acc"] == f"{100 * clean:.2f}"
    assert record["autoattack_acc"] is None  # 40 images are not CIFAR-10
    assert "40 test images" in record["footnote"]


def test_records_have_the_keys_and_values_that_robustbench_reads(classifier, tmp_path, monkeypatch):
    """Its own functions list a record of ours, once its figures are whole."""
    monkeypatch.chdir(tmp_path)
    write_test_files(tmp_path / "data", monkeypatch)
    save_classifier(tmp_path / "model", classifier.state_dict(), finetune_run(tmp_path / "data"), SHAPE)
    small = ["--attacks", "pgd-2", "--scaling.workers", "0", "--scaling.threads", "1"]
    run(evaluating.main, monkeypatch, "--model", "model", "--name", "pgd", *small)
    words = ["--title", "A Paper", "--authors", "Ada Lovelace,Alan Turing", "--venue", "ICML 2026"]
    run(exporting.main, monkeypatch, "--model", "model", "--evaluations", "runs/pgd", "--folder", "exported", *words)
    record = json.loads((tmp_path / "exported/robustbench.json").read_text())
    assert set(record) <= set(ModelInfo.__dataclass_fields__) | {"unreliable", "external"}
    record["autoattack_acc"] = "12.50"
    place = tmp_path / "model_info/cifar10/Linf"
    place.mkdir(parents=True)
    (place / "Lovelace2026Paper.json").write_text(json.dumps(record))
    _, bibtex = get_leaderboard_bibtex("cifar10", "Linf")
    assert "Ada Lovelace and Alan Turing" in bibtex and "{2026}" in bibtex
    assert "Lovelace2026Paper" in get_leaderboard_latex("cifar10", "Linf")


def test_this_is_the_environment_that_robustbench_pins():
    assert (version("robustbench"), timm.__version__) == ("1.1.1", "1.0.9")
