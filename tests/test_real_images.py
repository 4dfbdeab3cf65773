"""The whole pipeline on CIFAR-10 photographs, a few hundred of them; the recipe is the short one, cut shorter."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = Path(os.environ.get("AFA_DIST_CIFAR10_PARQUET", ROOT.parent / "shared/data/cifar10-jpeg"))


@pytest.mark.skipif(
    not FOLDER.is_dir(), reason=f"needs CIFAR-10 as Parquet in {FOLDER} (or where AFA_DIST_CIFAR10_PARQUET says)"
)
def test_pipeline_on_cifar10(tmp_path):
    command = [sys.executable, ROOT / "jobs/pipeline.py", "--config", ROOT / "recipes/cifar10-short.yaml"]
    command += ["--data.path", FOLDER, "--data.train_limit", "640", "--data.test_limit", "128", "--data.held_out", "64"]
    command += ["--pretrain.schedule.epochs", "3", "--finetune.schedule.epochs", "2", "--baseline.schedule.epochs", "8"]
    command += ["--schedule.batch_size", "64", "--model.width", "8", "--evaluate.attacks", "pgd-5"]
    command += ["--scaling.threads", "1", "--name", "cifar"]
    done = subprocess.run([*map(str, command)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "runs/cifar/summary.json").read_text())
    accuracies = {
        model: {name: entry["accuracy"] for name, entry in s["accuracies"].items()} for model, s in summary.items()
    }
    assert accuracies["cross-entropy"]["clean"] > 0.17  # ten classes: it learns something in seconds
    for accuracy in accuracies.values():
        assert accuracy["pgd-5"] <= accuracy["clean"]
    shape = json.loads((tmp_path / "runs/cifar/finetune/model/config.json").read_text())["shape"]
    assert shape["channels"] == 3
    assert shape["classes"][3] == "cat"
    board = list((tmp_path / "runs/cifar/pretrain/tensorboard").glob("events.*"))
    assert board
    assert board[0].stat().st_size > 100
