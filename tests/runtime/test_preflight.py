"""A look at a real cluster of two nodes, sound and not."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.nodes import TwoNodes

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ROOT = Path(__file__).parents[2]


def preflight(environment, folder, *options):
    command = [sys.executable, "-m", "cluster.preflight", "--runs_dir", folder / "runs", *options]
    environment = {**environment, "PYTHONPATH": str(ROOT)}
    return subprocess.run(list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    cluster = TwoNodes(tmp_path_factory.mktemp("nodes"))
    try:
        cluster.add()
        yield cluster
    finally:
        cluster.close()


def test_a_sound_cluster(nodes, tmp_path):
    began = time.monotonic()
    done = preflight(nodes.env, tmp_path, "--nodes", 2, "--megabytes", 8, "--free_gb", 0.1)
    assert done.returncode == 0, done.stdout + done.stderr
    assert time.monotonic() - began < 60
    for part in (
        "2 nodes; python",
        "token mode: on",
        "all_reduce between the nodes: ",
        "all_gather between",
        "all is well",
    ):
        assert part in done.stdout
    assert list((tmp_path / "runs").iterdir()) == []  # nothing is left


def test_what_is_wrong_is_told(nodes, tmp_path):
    (tmp_path / "runs").write_text("no folder")
    done = preflight(nodes.env, tmp_path, "--nodes", 3, "--megabytes", 8, "--free_gb", 10**6)
    assert done.returncode == 2
    for part in ("nodes: there are 2 of 3", "cannot write to", "GB free in"):
        assert part in done.stderr, done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_cluster_must_be_named(tmp_path):
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = preflight(plain, tmp_path)
    assert done.returncode == 2
    assert "RAY_ADDRESS: is needed" in done.stderr
