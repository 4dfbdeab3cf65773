"""jobs/export.py: a folder with the same weights, a card with every figure under its right name, RobustBench's record."""

import dataclasses
import json
import re
import shutil
import sys

import pytest
import torch
import yaml
from huggingface_hub import ModelCard

from afa_dist import RobustClassifier
from afa_dist.cli import evaluating, exporting
from afa_dist.config import ClassifierAttackConfig, DataConfig, EvaluateRun, FinetuneRun, ModelConfig, ThreatConfig
from afa_dist.config.fields import to_mapping
from afa_dist.evaluation.summary import accuracies, label_of
from afa_dist.files import sha256
from afa_dist.models.export import save_classifier
from afa_dist.training.job import data_shape
from afa_dist.training.provenance import provenance
from afa_dist.training.run_dir import RunDirectory
from tests.cli.test_mistakes import check_message
from tests.model_hub import serving

FILES = ["README.md", "config.json", "model.safetensors", "robustbench.json"]
IN_PROCESS = ["--scaling.workers", "0", "--scaling.threads", "1"]
SECRET = "/home/somebody/private"


def export(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["export.py", *map(str, arguments)])
    code = exporting.main("export.py", "")
    return code, capsys.readouterr().err


@pytest.fixture
def run_folder(trained, digits, tmp_path, monkeypatch):
    """runs/classifier: a finished fine-tuning run; the test works in its parent."""
    monkeypatch.chdir(tmp_path)
    run = FinetuneRun(
        name="classifier",
        mode="full",
        init=f"{SECRET}/runs/pre",
        runs_dir=f"{SECRET}/runs",
        model=ModelConfig(width=8, norm="group"),
        attack=ClassifierAttackConfig(eps=0.1),
        data=DataConfig(generated=f"{SECRET}/drawn"),
    )
    directory = RunDirectory(tmp_path / "runs" / "classifier")
    directory.create(run, provenance(0, "f" * 64))
    save_classifier(directory.model, trained.state_dict(), run, data_shape(digits))
    return directory.path


def invented(run_folder, name, attacks, broken_by, warnings=(), data=None, part="test", eps=8 / 255):
    """A finished evaluation with given fates of its images: what is written of it is tested here, not the attacks."""
    from afa_dist.config.attack_names import single_attacks

    data = {"name": "cifar10", "path": SECRET, "test_limit": 0, **(data or {})}
    directory = RunDirectory(run_folder.parent / name)
    threat = ThreatConfig(eps=eps)
    run = EvaluateRun(name=name, model=str(run_folder), data=DataConfig(**data), attacks=attacks, threat=threat, part=part)
    directory.create(run, provenance(0, "e" * 64))
    (directory.path / "evaluation").mkdir()
    summary = {
        "accuracies": accuracies(broken_by, attacks, eps),
        "label": label_of(attacks, eps),
        "warnings": list(warnings),
        "model": str(run_folder),
        "model_sha256": sha256(run_folder / "model" / "model.safetensors"),
        "data_fingerprint": "e" * 64,
        "threat": dataclasses.asdict(threat),
        "attacks": list(single_attacks(attacks)),
        "seed": 5,
        "shard_size": 500,
        "batch_size": 250,
        "versions": {"afa-dist attacks": 1, "autoattack": "pyautoattack 0.2.0", "torch": "2.14.1"},
    }
    directory.write_json("evaluation/summary.json", summary)
    return directory.path


def fates(images, attacks, clean=1000, each=100):
    """Of each attack `each` images fall, of `images` in all."""
    fallen = ["clean"] * clean + [name for name in attacks for _ in range(each)]
    return fallen + [None] * (images - len(fallen))


AA = ("apgd-ce", "apgd-t", "fab-t", "square")


def test_a_run_and_its_evaluation_become_a_folder_that_loads(run_folder, trained, digits, monkeypatch, capsys, tmp_path):
    arguments = ["--model", run_folder, "--name", "fast", "--fast", "--data.test_limit", "10", *IN_PROCESS]
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, arguments)])
    assert evaluating.main("evaluate.py", "") == 0
    code, message = export(monkeypatch, capsys, "--model", run_folder, "--evaluations", "runs/fast", "--folder", "out")
    assert code == 0, message
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES
    assert sha256(tmp_path / "out/model.safetensors") == sha256(run_folder / "model/model.safetensors")
    x = digits.test.images_NCHW[:32].float() / 255
    assert torch.equal(RobustClassifier.from_pretrained("out")(x), trained(x))
    summary = json.loads((tmp_path / "runs/fast/evaluation/summary.json").read_text())
    check_card((tmp_path / "out/README.md").read_text(), summary)
    record = json.loads((tmp_path / "out/robustbench.json").read_text())
    assert record["autoattack_acc"] is None and "not AutoAttack" in record["footnote"]
    assert "10 test images only" in record["footnote"]


def check_card(text, summary):
    """Every figure with interval and number of images, in the text as in the metadata, by its own name."""
    for name, entry in summary["accuracies"].items():
        low, high = entry["interval_95"]
        shown = {"autoattack": "AutoAttack"}.get(name, name)
        row = f"| {shown} | {100 * entry['accuracy']:.2f} | {100 * low:.2f} to {100 * high:.2f} "
        assert f"{row}| {entry['right']} | {entry['images']} |" in text
    card = ModelCard(text)
    values = sorted(result.metric_value for result in card.data.eval_results)
    assert values == sorted(round(entry["accuracy"], 6) for entry in summary["accuracies"].values())
    named = [result.metric_name for result in card.data.eval_results if "AutoAttack" in result.metric_name]
    assert all("not AutoAttack" in name or "under AutoAttack" in name for name in named)
    assert summary["label"] in text and summary["data_fingerprint"] in text and summary["model_sha256"] in text
    if "not AutoAttack" in summary["label"]:
        rest = " ".join(text.split()).replace("not AutoAttack", "").replace("pyautoattack", "")  # YAML breaks long lines
        assert "autoattack" not in rest.lower()


@pytest.mark.parametrize(
    ("attacks", "parts"),
    [
        (("fast",), ("apgd-ce", "apgd-t")),
        (("pgd-20", "pgd-50x10"), ("pgd-20", "pgd-50x10")),
        (("autoattack",), AA),
        (("pgd-20", "autoattack"), ("pgd-20", *AA)),
        (("apgd-ce", "apgd-t", "fab-t"), ("apgd-ce", "apgd-t", "fab-t")),
    ],
)
def test_cards_say_what_was_measured_and_records_claim_no_more(run_folder, monkeypatch, capsys, tmp_path, attacks, parts):
    evaluated = invented(run_folder, "e", attacks, fates(10_000, parts), warnings=["gradients may be masked"])
    code, message = export(monkeypatch, capsys, "--model", run_folder, "--evaluations", evaluated, "--folder", "out")
    assert code == 0, message
    text, record = (tmp_path / "out/README.md").read_text(), json.loads((tmp_path / "out/robustbench.json").read_text())
    check_card(text, json.loads((evaluated / "evaluation/summary.json").read_text()))
    assert "- gradients may be masked" in text and "eps 8/255" in text and "Seed 5" in text
    whole = "autoattack" in attacks
    assert record["clean_acc"] == "90.00" and record["eps"] == "8/255" and record["dataset"] == "cifar10"
    assert record["autoattack_acc"] == (f"{90 - len(parts)}.00" if whole else None)
    assert record.get("unreliable") == (True if whole else None)
    assert ("autoattack_acc is empty" in record["footnote"]) is not whole
    assert ("before it, pgd-20" in record["footnote"]) is ("pgd-20" in attacks and whole)


@pytest.mark.parametrize(
    ("images", "options", "words"),
    [
        (1000, {}, "1,000 test images only"),
        (9_000, {"data": {"test_limit": 9000}}, "9,000 test images only"),
        (10_000, {"part": "held_out"}, "10,000 held-out training images only"),
        (10_000, {"eps": 0.0}, "no leaderboard"),
    ],
)
def test_autoattack_on_anything_but_the_full_test_set_is_no_claim(
    run_folder, monkeypatch, capsys, tmp_path, images, options, words
):
    evaluated = invented(run_folder, "e", ("autoattack",), fates(images, AA, clean=100, each=10), **options)
    assert export(monkeypatch, capsys, "--model", run_folder, "--evaluations", evaluated, "--folder", "out")[0] == 0
    record = json.loads((tmp_path / "out/robustbench.json").read_text())
    assert record["autoattack_acc"] is None and "unreliable" not in record
    assert words in record["footnote"]


def test_the_record_is_of_the_evaluation_that_robustbench_would_make(run_folder, monkeypatch, capsys, tmp_path):
    short = invented(run_folder, "short", ("autoattack",), fates(1000, AA, clean=10, each=1))
    whole = invented(run_folder, "whole", ("autoattack",), fates(10_000, AA))
    places = f"{short},{whole}"
    words = ["--title", "A Title", "--authors", "Ada Lovelace,Alan Turing", "--paper", "https://example.org/1"]
    code, _ = export(monkeypatch, capsys, "--model", run_folder, "--evaluations", places, "--folder", "out", *words)
    assert code == 0
    record = json.loads((tmp_path / "out/robustbench.json").read_text())
    assert record == {
        "link": "https://example.org/1",
        "name": "A Title",
        "authors": "Ada Lovelace, Alan Turing",
        "additional_data": False,
        "number_forward_passes": 1,
        "dataset": "cifar10",
        "venue": "Unpublished",
        "architecture": "small-resnet",
        "eps": "8/255",
        "clean_acc": "90.00",
        "reported": "86.00",
        "autoattack_acc": "86.00",
        "unreliable": False,
    }


def test_what_is_published_names_no_folder_of_this_machine(run_folder, monkeypatch, capsys, tmp_path):
    evaluated = invented(run_folder, "e", ("fast",), fates(10_000, ("apgd-ce", "apgd-t")))
    licence = ["--licence", "mit"]
    assert (
        export(monkeypatch, capsys, "--model", run_folder, "--evaluations", evaluated, "--folder", "out", *licence)[0] == 0
    )
    for path in (tmp_path / "out").glob("*[!s]"):
        if path.suffix != ".safetensors":
            text = path.read_text()
            assert SECRET not in text and str(tmp_path) not in text, path
    text = (tmp_path / "out/README.md").read_text()
    recipe = yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, re.S)[1])
    assert recipe["init"] == "pre" and recipe["attack"]["eps"] == 0.1 and recipe["model"]["width"] == 8
    assert "started from weights that are not described here (pre)" in text
    assert "without further images, 70 % of each batch drawn by a generative model (set drawn)" in text
    assert "f" * 64 in text and ModelCard(text).data.license == "mit"


def test_the_example_in_the_card_works(run_folder, monkeypatch, capsys, tmp_path):
    evaluated = invented(run_folder, "e", ("fast",), fates(10_000, ("apgd-ce", "apgd-t")))
    assert export(monkeypatch, capsys, "--model", run_folder, "--evaluations", evaluated, "--folder", "out")[0] == 0
    code = re.search(r"```python\n(.*?)```", (tmp_path / "out/README.md").read_text(), re.S)[1]
    exec(code.replace("USER/NAME", "out"), {})
    assert capsys.readouterr().out.strip() in "0123456789"


def test_the_pre_training_of_the_features_is_in_the_card(run_folder, monkeypatch, capsys, tmp_path):
    from afa_dist.config import PretrainRun

    before = PretrainRun(name="pre", seed=7)
    RunDirectory(tmp_path / "runs/pre").create(before, provenance(7, "d" * 64))
    config = yaml.safe_load((run_folder / "config.yaml").read_text()) | {"init": "runs/pre"}
    (run_folder / "config.yaml").write_text(yaml.safe_dump(config))
    evaluated = invented(run_folder, "e", ("fast",), fates(10_000, ("apgd-ce", "apgd-t")))
    assert export(monkeypatch, capsys, "--model", run_folder, "--evaluations", evaluated, "--folder", "out")[0] == 0
    text = (tmp_path / "out/README.md").read_text()
    assert "not described here" not in text
    assert text.index("### Pre-training") < text.index("### Fine-tuning")
    first, second = (yaml.safe_load(found) for found in re.findall(r"```yaml\n(.*?)```", text, re.S))
    assert first["method"] == to_mapping(before)["method"] and second["name"] == "classifier"


def test_all_mistakes_are_reported_together_and_nothing_is_written(run_folder, monkeypatch, capsys, tmp_path):
    good = invented(run_folder, "good", ("fast",), fates(10_000, ("apgd-ce", "apgd-t")))
    other = invented(run_folder, "other", ("fast",), fates(10_000, ("apgd-ce", "apgd-t")))
    summary = json.loads((other / "evaluation/summary.json").read_text())
    (other / "evaluation/summary.json").write_text(json.dumps({**summary, "model_sha256": "0" * 64}))
    unfinished = invented(run_folder, "unfinished", ("fast",), fates(10_000, ("apgd-ce", "apgd-t")))
    (unfinished / "evaluation/summary.json").unlink()
    old = invented(run_folder, "old", ("fast",), fates(10_000, ("apgd-ce", "apgd-t")))
    (old / "evaluation/summary.json").write_text('{"accuracies": {}}')
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    places = ",".join(map(str, (good, other, unfinished, old, tmp_path / "nowhere")))
    code, message = export(
        monkeypatch, capsys, "--model", run_folder, "--evaluations", places, "--folder", "full", "--paper", "x"
    )
    words = [f"{other} measured other weights", f"{unfinished} is not finished", f"{old} was evaluated by another version"]
    check_message(
        code, message, "6 mistakes", *words, "nowhere holds no evaluation", "full holds something else", "paper: 'x'"
    )
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["model: missing", "evaluations: missing", "folder: missing"]),
        (["--model", "timm:resnet18"], ["not a model of ours"]),
        (["--model", "nowhere"], ["holds no exported model"]),
        (["--push_to_hub", "me"], ["push_to_hub", "USER/NAME"]),
        (["--private"], ["private", "push_to_hub"]),
        (["--licence", "my own"], ["licence", "apache-2.0"]),
        (["--title", "a\nb"], ["title", "line breaks"]),
        (["--folder", "s3://bucket/x"], ["folder", "address"]),
        (["--evaluations", "a,a"], ["evaluations", "twice"]),
    ],
)
def test_each_mistake_names_its_option(arguments, words, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    check_message(*export(monkeypatch, capsys, *arguments), *words)
    assert list(tmp_path.iterdir()) == []


def test_an_export_is_renewed_and_other_weights_are_not_overwritten(run_folder, monkeypatch, capsys, tmp_path):
    evaluated = invented(run_folder, "e", ("fast",), fates(10_000, ("apgd-ce", "apgd-t")))
    arguments = ["--model", run_folder, "--evaluations", evaluated, "--folder"]
    assert export(monkeypatch, capsys, *arguments, "out")[0] == 0
    assert export(monkeypatch, capsys, *arguments, "out", "--title", "Anew")[0] == 0
    assert "# Anew" in (tmp_path / "out/README.md").read_text()
    check_message(*export(monkeypatch, capsys, *arguments, run_folder / "model"), "folder", "kept as it is")
    shutil.copytree(tmp_path / "out", tmp_path / "changed")
    weights = bytearray((tmp_path / "changed/model.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "changed/model.safetensors").write_bytes(weights)
    check_message(*export(monkeypatch, capsys, *arguments, "changed"), "folder", "other weights")
    assert (tmp_path / "changed/model.safetensors").read_bytes() == bytes(weights)


@pytest.mark.parametrize("text", ["{", "[]", "{}", "figure"])
def test_a_damaged_summary_is_told_in_words(run_folder, monkeypatch, capsys, tmp_path, text):
    evaluated = invented(run_folder, "e", ("fast",), fates(10_000, ("apgd-ce", "apgd-t")))
    summary = evaluated / "evaluation/summary.json"
    if text == "figure":
        text = summary.read_text().replace('"accuracy": 0.9', '"accuracy": "all"')
    summary.write_text(text)
    code, message = export(monkeypatch, capsys, "--model", run_folder, "--evaluations", evaluated, "--folder", "out")
    check_message(code, message, "evaluations", str(evaluated))
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_is_a_mistake(run_folder, monkeypatch, capsys, tmp_path):
    evaluated = invented(run_folder, "e", ("fast",), fates(10_000, ("apgd-ce", "apgd-t")))
    (tmp_path / "file").write_text("")
    for folder in ("file", "file/below"):
        code, message = export(monkeypatch, capsys, "--model", run_folder, "--evaluations", evaluated, "--folder", folder)
        check_message(code, message, "folder", "file is not a folder that can be written to")


def test_a_dry_run_writes_nothing(run_folder, monkeypatch, capsys, tmp_path):
    evaluated = invented(run_folder, "e", ("fast",), fates(10_000, ("apgd-ce", "apgd-t")))
    before = sorted(tmp_path.rglob("*"))
    arguments = ["--model", run_folder, "--evaluations", evaluated, "--folder", "out", "--dry-run"]
    assert export(monkeypatch, capsys, *arguments)[0] == 0
    assert sorted(tmp_path.rglob("*")) == before


def test_the_folder_goes_to_the_hub_with_its_card_and_nothing_else(
    run_folder, trained, digits, monkeypatch, capsys, tmp_path
):
    """The client is the real one, the hub a server of this machine (tests/model_hub.py)."""
    evaluated = invented(run_folder, "e", ("fast",), fates(10_000, ("apgd-ce", "apgd-t")))
    (tmp_path / "out").mkdir()
    (tmp_path / "out/.hidden").write_text("a draft")
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_environment")
    arguments = [
        "--model",
        run_folder,
        "--evaluations",
        evaluated,
        "--folder",
        "out",
        "--push_to_hub",
        "me/robust",
        "--private",
    ]
    with serving(monkeypatch, tmp_path / "cache") as hub:
        code, message = export(monkeypatch, capsys, *arguments)
        assert code == 0, message
        assert sorted(hub.files["me/robust"]) == FILES and hub.private["me/robust"]
        assert "Bearer hf_of_the_environment" in hub.tokens
        card = hub.files["me/robust"]["README.md"].decode()
        x = digits.test.images_NCHW[:8].float() / 255
        assert torch.equal(RobustClassifier.from_pretrained("me/robust")(x), trained(x))
        assert 'from_pretrained("me/robust")' in card
        hub.private["me/robust"] = False
        code, message = export(monkeypatch, capsys, *arguments)
        check_message(code, message, "private: me/robust is on the hub already, and public")
    code, message = export(monkeypatch, capsys, *arguments)  # nobody answers any more
    check_message(code, message, "push_to_hub: the hub does not take me/robust")
