"""The scripts under torchrun: the in-process twin with several workers, and no Ray."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = ["--data.train_limit", "256", "--data.held_out", "32", "--model.width", "8", "--schedule.batch_size", "64"]
SMALL += ["--attack.steps", "2", "--schedule.epochs", "2", "--tracking.tensorboard", "false", "--scaling.threads", "1"]
SMALL += ["--scaling.precision", "fp64", "--scaling.workers", "0"]


def job(folder, script, *arguments, workers=1):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(workers)] if workers > 1 else []
    command = [sys.executable, *launcher, ROOT / "jobs" / script, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_two_processes_end_with_the_metrics_of_one(tmp_path):
    for workers in (1, 2):
        done = job(tmp_path, "pretrain.py", *SMALL, "--name", f"n{workers}", workers=workers)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("run directory:") == 1  # one process speaks
    one, two = (json.loads((tmp_path / f"runs/n{n}/summary.json").read_text()) for n in (1, 2))
    assert two["last"] == pytest.approx(one["last"], abs=1e-9)
    rows = [(tmp_path / f"runs/n{n}/metrics.jsonl").read_text().splitlines() for n in (1, 2)]
    assert len(rows[0]) == len(rows[1]) == 5
    for a, b in zip(*rows, strict=True):
        a, b = json.loads(a), json.loads(b)
        assert a.pop("phase") == b.pop("phase")
        assert a == pytest.approx(b, abs=1e-9)


def test_what_needs_ray_or_other_batches_is_refused_in_words(tmp_path):
    done = job(tmp_path, "pipeline.py", *SMALL, workers=2)
    assert done.returncode != 0
    assert "start it without torchrun" in done.stderr
    done = job(tmp_path, "pretrain.py", *SMALL, "--schedule.batch_size", "48", workers=2)
    assert done.returncode != 0
    assert "48 cannot be shared by 2 workers" in done.stderr
    assert list(tmp_path.iterdir()) == []
