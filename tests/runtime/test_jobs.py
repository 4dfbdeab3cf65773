"""The scripts through Ray Jobs, and from the command line on a cluster of their own."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = ["--data.train_limit", "256", "--data.held_out", "32", "--model.width", "8", "--schedule.batch_size", "64"]
SMALL += ["--attack.steps", "2", "--schedule.epochs", "2", "--tracking.tensorboard", "false", "--scaling.threads", "1"]

pytestmark = pytest.mark.ray


def submit(*entrypoint, cwd=ROOT):
    ray = Path(sys.executable).parent / "ray"
    command = [ray, "job", "submit", "--working-dir", ".", "--", *map(str, entrypoint)]
    deadline = time.monotonic() + 60
    while True:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
        # The dashboard answers some seconds before the agent that starts jobs has reported to it.
        if "No available agent" not in done.stderr or time.monotonic() > deadline:
            return done
        time.sleep(1)


def test_a_job_runs_shows_progress_and_leaves_a_run_directory(ray_cluster, tmp_path):
    done = submit("python", "jobs/pretrain.py", *SMALL, "--scaling.workers", "2", "--runs_dir", tmp_path, "--name", "job")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "step 6/6" in done.stdout  # 224 images, 3 steps an epoch
    assert "run directory:" in done.stdout
    assert json.loads((tmp_path / "job" / "summary.json").read_text())["steps"] == 6


def test_a_mistake_gives_a_failed_job_with_a_readable_reason(ray_cluster, tmp_path):
    done = submit("python", "jobs/pretrain.py", "--attack.eps", "300", "--runs_dir", tmp_path)
    output = done.stdout + done.stderr
    assert done.returncode != 0
    assert "attack.eps: 300 is not allowed" in output
    assert "Traceback" not in output
    assert list(tmp_path.iterdir()) == []


def test_the_pipeline_on_a_ray_cluster_of_its_own(tmp_path):
    """All stages by one command on two Ray workers; a second start finds everything done."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, ROOT / "jobs/pipeline.py", "--config", ROOT / "recipes/digits.yaml", *SMALL]
    command += ["--scaling.workers", "2", "--evaluate.attacks", "pgd-2", "--baseline.attack.steps", "1", "--name", "p"]
    first = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=clean, check=False)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "AFA + linear" in first.stdout
    assert "cross-entropy" in first.stdout
    summary = json.loads((tmp_path / "runs/p/summary.json").read_text())
    for model in summary.values():
        accuracies = [entry["accuracy"] for entry in model["accuracies"].values()]
        assert accuracies == sorted(accuracies, reverse=True)
    weights = (tmp_path / "runs/p/finetune/model/model.safetensors").read_bytes()
    alone = [*command, "--scaling.workers", "0"]  # where it runs may change, what it is may not
    second = subprocess.run(alone, cwd=tmp_path, capture_output=True, text=True, env=clean, check=False)
    assert second.returncode == 0, second.stdout + second.stderr
    assert json.loads((tmp_path / "runs/p/summary.json").read_text()) == summary
    assert (tmp_path / "runs/p/finetune/model/model.safetensors").read_bytes() == weights
