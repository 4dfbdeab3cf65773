"""A whole analysis of a small classifier: the same files however it is stopped, and nothing mixed."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from afa_dist.cli import analysing
from afa_dist.config import (
    AnalyseRun,
    ContrastiveAttackConfig,
    DataConfig,
    FinetuneRun,
    ModelConfig,
    PretrainRun,
    ScheduleConfig,
    ThreatConfig,
    ValidationConfig,
)
from afa_dist.config.analyse import PARTS
from afa_dist.data.image_set import choose_evenly
from afa_dist.distributed import World
from afa_dist.errors import UserError
from afa_dist.models.build import DataShape
from afa_dist.models.export import save_classifier
from afa_dist.runtime.analyse import analyse
from afa_dist.runtime.analysis_checks import check
from afa_dist.training.job import train
from afa_dist.training.run_dir import RunDirectory
from tests.evaluation.helpers import HERE, killed_and_warned

ROOT = Path(__file__).parents[2]
MODEL = ModelConfig(width=8, norm="group")


@pytest.fixture(scope="module")
def runs(trained, digits, tmp_path_factory):
    """A pre-training run of one epoch, and a classifier that says it came from it."""
    folder = tmp_path_factory.mktemp("runs")
    torch.set_num_threads(1)
    pretrain = PretrainRun(
        name="pretrain",
        runs_dir=str(folder),
        model=MODEL,
        attack=ContrastiveAttackConfig(eps=0.1, steps=1),
        schedule=ScheduleConfig(epochs=1),
        validation=ValidationConfig(steps=0),
    )
    directory = RunDirectory.of(pretrain)
    directory.create(pretrain, {})
    train(pretrain, digits, directory, World(), on_row=lambda row: None)
    mean, std = digits.train.pixel_statistics()
    finetune = FinetuneRun(
        name="finetune", runs_dir=str(folder), mode="full", model=MODEL, init=str(directory.path), data=DataConfig()
    )
    directory = RunDirectory.of(finetune)
    directory.create(finetune, {})
    shape = DataShape(1, mean, std, digits.train.classes, (8, 8))
    save_classifier(directory.model, trained.state_dict(), finetune, shape)
    return folder


def run_of(runs, folder, **options):
    options = {"model": str(runs / "finetune"), "threat": ThreatConfig(eps=0.1), "images": 60, "steps": 5, **options}
    return AnalyseRun(runs_dir=str(folder), **options)


def analysed(run, on_progress=lambda progress: None):
    return analyse(run, check(run), HERE, on_progress)


def results(folder, name="analysis"):
    """The bytes of what a reader sees."""
    return [(folder / name / "analysis" / file).read_bytes() for file in ("analysis.json", "arrays.safetensors")]


@pytest.fixture(scope="module")
def undisturbed(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    analysed(run_of(runs, folder))
    return results(folder)


class Interrupted(Exception):
    pass


def test_what_a_reader_finds(runs, digits, undisturbed, tmp_path):
    (tmp_path / "arrays").write_bytes(undisturbed[1])
    found, arrays = json.loads(undisturbed[0]), load_file(tmp_path / "arrays")
    assert found.keys() == {
        *("model", "model_sha256", "data_fingerprint", "threat", "seed", "images", "steps", "classes", "versions"),
        *(set(PARTS) - {"embedding"}),
    }
    assert found["threat"] == {"norm": "linf", "eps": 0.1} and found["images"] == 60
    assert found["features"].keys() == {"penultimate", "projection", "untrained"}
    for layer in found["features"].values():
        assert layer["adversarial"].keys() == {*layer["clean"], "own_clean_cosine"}
        assert layer["clean"].keys() == {
            *("within_distance", "between_distance", "within_cosine", "between_cosine"),
            *("misaligned_means", "misaligned_neighbours", "knn5_acc", "knn20_acc"),
        }
    assert [point["eps"] for point in found["curve"]] == [0, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4]
    rights = [point["right"] for point in found["curve"]]
    assert rights == sorted(rights, reverse=True) and rights[0] > rights[-1]
    noise = found["corruptions"]["families"]["noise"]
    assert found["corruptions"]["source"] == "made here" and "saturate" not in found["corruptions"]["families"]["digital"]
    assert [row["strength"] for row in noise["shot_noise"]] == [1, 2, 3, 4, 5]
    rows = [row["accuracy"] for kind in noise.values() for row in kind]
    assert found["corruptions"]["means"]["noise"] == pytest.approx(sum(rows) / len(rows))
    assert found["saliency"].keys() == {"gradient", "integrated"}
    assert found["calibration"]["adversarial"]["ece"] > found["calibration"]["clean"]["ece"]
    indices = arrays["indices_N"].numpy()
    assert (indices == choose_evenly(digits.test.labels_N.numpy(), 60, seed=0)).all()
    assert torch.equal(arrays["labels_N"], digits.test.labels_N[arrays["indices_N"]])
    x = digits.test.images_NCHW[arrays["indices_N"]].float() / 255
    distance = (arrays["x_adv_NCHW"] - x).flatten(1).abs().amax(dim=1)
    assert (distance <= 0.1 + 1e-6).all() and (distance > 0.05).all()
    shapes = {name: tuple(tensor.shape) for name, tensor in arrays.items()}
    wide = {f"{kind}{adv}_N2": (60, 2) for kind in ("pca", "tsne") for adv in ("", "_adv")}
    maps = {f"{kind}{adv}_MHW": (16, 8, 8) for kind in ("gradient", "integrated") for adv in ("", "_adv")}
    long = ("indices_N", "labels_N", "predictions_N", "adv_predictions_N", "lipschitz_logits_N", "lipschitz_features_N")
    rest = {"x_adv_NCHW": (60, 1, 8, 8), "saliency_indices_M": (16,), "saliency_x_adv_MCHW": (16, 1, 8, 8)}
    assert shapes == {**wide, **maps, **dict.fromkeys(long, (60,)), **rest}
    assert found["curve"][0]["right"] == int((arrays["predictions_N"] == arrays["labels_N"]).sum())
    assert found["lipschitz"]["logits"]["mean"] == pytest.approx(float(arrays["lipschitz_logits_N"].mean()), rel=1e-5)
    places = [indices.tolist().index(index) for index in arrays["saliency_indices_M"].tolist()]
    assert torch.equal(arrays["saliency_x_adv_MCHW"], arrays["x_adv_NCHW"][places])


def test_an_analysis_that_is_interrupted_in_every_part_ends_as_an_undisturbed_one(runs, tmp_path, undisturbed, monkeypatch):
    monkeypatch.setattr("afa_dist.runtime.analyse.TICK_SECONDS", 0.0)
    seen = set()

    def interrupt(progress):
        if progress.what not in seen and progress.done > 0:
            seen.add(progress.what)
            raise Interrupted

    parts = tmp_path / "analysis/analysis/parts"
    kept = {}
    for _ in range(12):
        try:
            analysed(run_of(runs, tmp_path), interrupt)
            break
        except Interrupted:
            now = {file: file.stat().st_mtime_ns for file in parts.glob("*")}
            assert kept.items() <= now.items()  # nothing is computed twice
            assert not (tmp_path / "analysis/analysis/analysis.json").exists()
            kept = now
    assert {"images", "features", "curve", "embedding"} <= seen
    assert results(tmp_path) == undisturbed


def test_parts_that_are_added_later_give_the_same_as_all_at_once(runs, tmp_path, undisturbed):
    first = analysed(run_of(runs, tmp_path, parts=("calibration",)))
    assert "calibration" in first and "curve" not in first
    analysed(run_of(runs, tmp_path))
    assert results(tmp_path) == undisturbed
    analysed(run_of(runs, tmp_path, parts=("curve", "saliency")))  # what is there stays
    assert results(tmp_path) == undisturbed


def test_batches_of_another_size_and_threads_change_rounding_alone(runs, tmp_path, undisturbed):
    found = analysed(run_of(runs, tmp_path, batch_size=17))
    was = json.loads(undisturbed[0])
    assert found["features"]["penultimate"]["clean"] == pytest.approx(was["features"]["penultimate"]["clean"], abs=1e-4)
    assert found["corruptions"]["mean"] == pytest.approx(was["corruptions"]["mean"], abs=0.01)
    assert abs(found["curve"][4]["right"] - was["curve"][4]["right"]) <= 1
    assert found["lipschitz"]["logits"]["mean"] == pytest.approx(was["lipschitz"]["logits"]["mean"], rel=0.02)


def test_damaged_parts_are_computed_again(runs, tmp_path, undisturbed):
    analysed(run_of(runs, tmp_path))
    parts = tmp_path / "analysis/analysis/parts"
    for name, damage in (
        ("images", lambda b: b[:-9]),
        ("curve", lambda b: b.replace(b"accuracy", b"accurucy")),
        ("embedding", lambda b: b""),
    ):
        (parts / f"{name}.safetensors").write_bytes(damage((parts / f"{name}.safetensors").read_bytes()))
    whole = {file: file.stat().st_mtime_ns for file in parts.glob("[flsc]*") if file.stem != "curve"}
    with pytest.warns(UserWarning, match="is damaged.*computed again"):
        analysed(run_of(runs, tmp_path))
    assert {file: file.stat().st_mtime_ns for file in whole} == whole
    assert results(tmp_path) == undisturbed


@pytest.mark.parametrize(
    "change,words",
    [
        ({"threat": ThreatConfig(eps=0.2)}, "threat.eps"),
        ({"steps": 6}, "steps"),
        ({"images": 40}, "images"),
        ({"seed": 1}, "seed"),
        ({"data": DataConfig(test_limit=50)}, "data.test_limit"),
        ({"sha": "1"}, "other weights"),
        ({"version": 2}, "other versions"),
    ],
)
def test_another_analysis_is_not_mixed_in(runs, tmp_path, monkeypatch, change, words):
    analysed(run_of(runs, tmp_path, parts=("calibration",)))
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    change = dict(change)
    if sha := change.pop("sha", None):
        from afa_dist.runtime import analysis_checks

        load = analysis_checks.load_subject
        monkeypatch.setattr(analysis_checks, "load_subject", lambda model: dataclasses.replace(load(model), sha256=sha))
    if version := change.pop("version", None):
        monkeypatch.setattr("afa_dist.runtime.analysis_checks.ANALYSIS_VERSION", version)
    with pytest.raises(UserError, match=words):
        check(run_of(runs, tmp_path, parts=("calibration",), **change))
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    if sha:  # who comes past that check, because the record is gone, is stopped by the files themselves
        (tmp_path / "analysis/analysis/identity.json").unlink()
        with pytest.raises(UserError, match="other weights, images, options or versions"):
            analysed(run_of(runs, tmp_path, parts=("calibration",)))


def test_other_pretraining_weights_are_refused(runs, tmp_path, monkeypatch):
    analysed(run_of(runs, tmp_path, parts=("features",)))
    from afa_dist.runtime import analysis_checks

    load = analysis_checks.load_pretrained
    other = lambda place, shape: dataclasses.replace(load(place, shape), sha256="other")  # noqa: E731
    monkeypatch.setattr(analysis_checks, "load_pretrained", other)
    with pytest.raises(UserError, match=r"features.safetensors was made by an analysis with other"):
        analysed(run_of(runs, tmp_path, parts=("features",)))


def perceptron():
    """A network that is not ours."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


STRANGER = f"{perceptron.__module__}:perceptron"


def test_published_corruptions_are_used_when_they_are_named(runs, digits, tmp_path):
    files = tmp_path / "published"
    files.mkdir()
    pixels = digits.test.images_NCHW.numpy().transpose(0, 2, 3, 1)
    np.save(files / "labels.npy", np.tile(digits.test.labels_N.numpy(), 5))
    np.save(files / "fog.npy", np.concatenate([pixels] * 4 + [np.zeros_like(pixels)]))
    options = {
        "parts": ("corruptions", "curve"),
        "corruptions_path": str(files),
        "threat": ThreatConfig(norm="l2", eps=0.5),
    }
    found = analysed(run_of(runs, tmp_path, **options))
    corruptions, clean = found["corruptions"], found["curve"][0]
    assert corruptions["source"] == str(files) and corruptions["families"].keys() == {"weather"}
    rows = corruptions["families"]["weather"]["fog"]
    assert [row["right"] for row in rows[:4]] == [clean["right"]] * 4 and rows[4]["accuracy"] < 0.2
    assert corruptions["mean"] == corruptions["means"]["weather"] == pytest.approx(sum(r["accuracy"] for r in rows) / 5)
    assert found["curve"][-1]["eps"] == 2 and found["curve"][-1]["right"] < clean["right"]
    np.save(files / "snow.npy", np.concatenate([pixels] * 5))
    with pytest.raises(UserError, match=r"corruptions.safetensors was made by an analysis with other"):
        analysed(run_of(runs, tmp_path, **options))


def test_a_network_that_is_not_ours_shows_what_it_can(runs, tmp_path):
    run = run_of(runs, tmp_path, model=STRANGER)
    prepared = check(run)
    assert prepared.parts == ("lipschitz", "corruptions", "saliency", "curve", "calibration")
    assert any("features and embedding are left out" in note for note in prepared.notes)
    found = analyse(run, prepared, HERE, lambda progress: None)
    assert found["lipschitz"].keys() == {"logits"} and "features" not in found
    with pytest.raises(UserError, match="embedding cannot be measured"):
        check(run_of(runs, tmp_path, name="b", model=STRANGER, parts=("embedding", "curve")))


def test_a_missing_pretraining_run_is_left_out_unless_it_was_named(runs, tmp_path):
    moved = tmp_path / "finetune"
    moved.mkdir()
    for name in ("config.yaml",):
        text = (runs / "finetune" / name).read_text().replace(str(runs / "pretrain"), str(tmp_path / "gone"))
        (moved / name).write_text(text)
    (moved / "model").symlink_to(runs / "finetune" / "model")
    prepared = check(run_of(runs, tmp_path, model=str(moved), parts=("features",)))
    assert prepared.pretrained is None and "projected features are left out" in prepared.notes[0]
    with pytest.raises(UserError, match=r"pretrained: .*gone holds no checkpoint"):
        check(run_of(runs, tmp_path, model=str(moved), pretrained=str(tmp_path / "gone")))
    with pytest.raises(UserError, match=r"pretrained: .*finetune holds no checkpoint of a pre-training run"):
        check(run_of(runs, tmp_path, pretrained=str(runs / "finetune")))
    named = check(run_of(runs, tmp_path, model=str(moved), parts=("features",), pretrained=str(runs / "pretrain")))
    assert named.pretrained is not None


def job(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["analyse.py", *map(str, arguments)])
    code = analysing.main("analyse.py", "")
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_all_mistakes_are_reported_together(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = ("--parts", "curve,colour", "--images", "3", "--threat.eps", "0", "--scaling.workers", "2")
    code, _, err = job(monkeypatch, capsys, "--model", "nowhere", *options)
    assert code == 2 and "Traceback" not in err
    for words in ("images: 3 is not allowed", "nowhere holds no exported model"):
        assert words in err
    code, _, err = job(monkeypatch, capsys, "--model", runs / "finetune", *options[:2], *options[4:])
    assert code == 2
    for words in ("'colour' is not known; choose of: features", "threat.eps: 0 leaves nothing", "scaling.workers: 2"):
        assert words in err
    code, _, err = job(monkeypatch, capsys)
    assert code == 2 and "model: missing" in err
    (tmp_path / "runs/taken/evaluation").mkdir(parents=True)
    (tmp_path / "runs/taken/config.yaml").write_text("name: taken\n")
    code, _, err = job(monkeypatch, capsys, "--model", runs / "finetune", "--name", "taken")
    assert code == 2 and "holds an evaluation; choose another name" in err
    code, _, err = job(monkeypatch, capsys, "--model", runs / "finetune", "--corruptions-path", tmp_path)
    assert code == 2 and "labels.npy" in err
    assert not (tmp_path / "runs/finetune-analysis").exists()


def test_the_name_follows_from_the_model(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = ("--model", runs / "finetune", "--parts", "calibration", "--images", "30", "--scaling.threads", "1")
    code, out, _ = job(monkeypatch, capsys, *model, "--dry-run")
    assert code == 0 and "finetune-analysis" in out and not (tmp_path / "runs").exists()
    code, out, err = job(monkeypatch, capsys, *model)
    assert code == 0, err
    assert "expected calibration error" in out and "30 test images of digits" in out
    assert (tmp_path / "runs/finetune-analysis/analysis/analysis.json").exists()
    assert analysing.default_name({"model": "runs/x/finetune", "runs_dir": "runs"}) == "x/finetune-analysis"
    assert analysing.default_name({"model": "/elsewhere/x/finetune"}) == "finetune-analysis"
    assert analysing.default_name({"model": "timm:resnet18"}) == "timm-resnet18-analysis"
    assert analysing.default_name({}) == ""


@pytest.mark.slow
def test_a_job_that_is_killed_or_warned_goes_on(runs, tmp_path):
    command = [sys.executable, str(ROOT / "jobs/analyse.py"), "--model", str(runs / "finetune"), "--images", "150"]
    command += ["--threat.eps", "0.1", "--scaling.threads", "1", "--name", "a"]
    killed_and_warned(command, tmp_path, lambda: (tmp_path / "runs").rglob("parts/*.safetensors"))
    done = subprocess.run([*command[:-1], "b"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert results(tmp_path / "runs", "a") == results(tmp_path / "runs", "b")
