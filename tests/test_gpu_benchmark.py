"""The GPU benchmark runs on a CPU in its tiny form, on a machine that has little more than torch, and goes on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

BARE = """
import runpy, sys
for name in ("ray", "pydantic", "yaml", "rich", "sklearn", "tensorboard", "submitit"):
    sys.modules[name] = None  # as if it were not installed
sys.argv = sys.argv[1:]
sys.path.insert(0, "benchmarks")
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(out, *flags):
    command = [sys.executable, "-c", BARE, "benchmarks/gpu.py", "--out", str(out), *flags]
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": ""}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)


@pytest.mark.slow
def test_all_parts_run_and_a_second_start_goes_on(tmp_path):
    first = run(tmp_path, "--tiny", "--minutes", "0")
    assert first.returncode == 0, first.stderr
    parts = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert parts["training"]["unfinished"] and "steps" not in parts["training"]
    again = run(tmp_path, "--tiny")
    assert again.returncode == 0, again.stderr
    assert [line for line in again.stdout.splitlines() if line.endswith("done before")] == [
        f"{name}: done before" for name in ("correctness", "loss", "step")
    ]
    record = json.loads((tmp_path / "gpu.json").read_text())
    assert record["parts"].keys() == parts.keys() == {"correctness", "loss", "step", "training"}
    errors = record["parts"]["correctness"]
    for name, tolerance in (("fp64", 1e-12), ("fp32", 1e-5), ("bf16", 0.1)):
        assert 0 <= max(errors[f"streamed, {name}"].values()) < tolerance
    assert record["parts"]["loss"]["streamed, fp32, 64 x 256"]["ms"] > 0
    assert record["parts"]["step"]["compiled, bf16"]["step"]["images_a_second"] > 0
    assert [entry["epoch"] for entry in record["parts"]["training"]["validations"]] == [1, 2]
    assert record["parts"]["training"]["steps"] == 8 and "unfinished" not in record["parts"]["training"]
    assert record["hardware"]["gpus"] == []


def test_what_cannot_be_done_is_said(tmp_path):
    no_gpu = run(tmp_path)
    assert no_gpu.returncode == 2 and "no GPU here" in no_gpu.stderr and "Traceback" not in no_gpu.stderr
    (tmp_path / "gpu.json").write_text(json.dumps({"settings": {"tiny": False, "epochs": 30}, "parts": {}}))
    other = run(tmp_path, "--tiny")
    assert other.returncode == 2 and "another --out" in other.stderr
