"""A queued job runs the code that was submitted, on all nodes; and a pipeline as a chain of jobs."""

import json
import subprocess

import pytest

from tests.slurm.conftest import clean
from tests.slurm.desk import ROOT, SMALL, Desk, here

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


def test_a_queued_job_runs_what_was_submitted(slurm, tmp_path):
    """The checkout, in which it was submitted and which is its current folder, is broken before it starts."""
    checkout = tmp_path / "checkout"
    subprocess.run(["git", "clone", "-q", ROOT, checkout], check=True)
    (checkout / "afa_dist/slicing.py").write_text((ROOT / "afa_dist/slicing.py").read_text() + "\nHERE = True\n")
    desk = Desk(tmp_path, clean(slurm.environment), root=checkout)
    desk.folder = checkout
    options = ["--config", "recipes/digits.yaml", *SMALL, "--schedule.epochs", "1", "--name", "q"]
    (job,) = desk.submit("pretrain", "--nodes", 2, "--extra", "begin=now+5", "--", *options)
    for path in (
        "afa_dist/training/pretrain.py",
        "afa_dist/slicing.py",
        "cluster/slurm/supervisor.py",
        "recipes/digits.yaml",
    ):
        (checkout / path).write_text("this is: [no code")
    assert desk.wait(job) == ["COMPLETED"], desk.log(job)
    start = json.loads((checkout / "runs/q/provenance.json").read_text())["starts"][-1]
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert start["code"]["commit"] == commit.strip()
    assert len(start["code"]["diff_sha256"]) == 64
    (diff,) = desk.store.glob("code/*/local.diff")
    assert "+HERE = True" in diff.read_text()


def test_a_pipeline_is_a_chain_of_jobs(desk):
    options = ["--config", str(ROOT / "recipes/digits.yaml"), *SMALL, "--schedule.epochs", "2", "--data.test_limit", "64"]
    options += ["--evaluate.attacks", "pgd-2", "--evaluate.shard_size", "32", "--baseline.attack.steps", "1", "--name", "c"]
    jobs = desk.submit("pipeline", "--chain", "--array", 2, "--", *options)
    waiting = {job: desk.slurm("squeue", "-h", "-j", job, "-o", "%E").strip() for job in jobs}
    assert sum("afterok" in text for text in waiting.values()) >= 3
    assert desk.wait(jobs[-1]) == ["COMPLETED"], desk.log(jobs[-1])
    assert "already finished" in desk.log(jobs[-1])
    alone = here(desk.folder, "pipeline", *options[:-1], "alone")
    found, expected = (json.loads((alone / name / "summary.json").read_text()) for name in ("c", "alone"))
    assert {name: one["accuracies"] for name, one in found.items()} == {
        name: one["accuracies"] for name, one in expected.items()
    }
    done = desk.run("status", "c")
    assert done.returncode == 0 and "finished" in done.stdout
