"""An evaluation whose machine is lost in the middle."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.evaluation.helpers import rows_of
from tests.nodes import nodes_of, wait_for

ROOT = Path(__file__).parents[2]


@pytest.mark.ray
def test_what_a_lost_node_was_doing_is_done_by_the_other(trained_run, tmp_path):
    """Two workers on a node each; one is killed. There is no room for two any more, and nothing waits for it."""
    command = [
        sys.executable,
        ROOT / "jobs/evaluate.py",
        "--model",
        trained_run.path,
        "--runs_dir",
        tmp_path,
        "--shard-size",
        "30",
    ]
    command += ["--threat.eps", "0.1", "--attacks", "pgd-20x3,apgd-ce", "--scaling.threads", "1"]
    log = tmp_path / "log.txt"
    with nodes_of(head_cpus=0) as cluster, log.open("w") as file:
        cluster.add()
        second = cluster.add()
        process = subprocess.Popen(
            [*command, "--name", "lost", "--scaling.workers", "2"], env=cluster.env, stdout=file, stderr=file, cwd=tmp_path
        )
        shards = tmp_path / "lost/evaluation/shards"
        wait_for(lambda: len(list(shards.glob("*pgd*"))) > 3, process, 120, log)
        cluster.kill(second)
        assert process.wait(timeout=200) == 0, log.read_text()
    done = subprocess.run(
        [*command, "--name", "here", "--scaling.workers", "0"], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert rows_of(tmp_path, "lost").equals(rows_of(tmp_path, "here"))
    summaries = [json.loads((tmp_path / name / "evaluation/summary.json").read_text()) for name in ("lost", "here")]
    assert summaries[0]["accuracies"] == summaries[1]["accuracies"]
