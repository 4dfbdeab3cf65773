"""The container file: what it copies is there and is enough, and what it installs first needs no code."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from cluster.snapshot import _PARTS

ROOT = Path(__file__).parents[2]
LINES = (ROOT / "cluster/container/Dockerfile").read_text().replace("\\\n", " ").splitlines()
COPIES = [line.split()[1:] for line in LINES if line.startswith("COPY ")]


def copied():
    return [source for *sources, _ in COPIES for source in sources]


def test_it_copies_what_a_snapshot_of_the_code_has_and_leaves_the_rest():
    assert sorted(copied()) == sorted([*_PARTS, "README.md"])
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert allowed == set(copied())


def test_it_starts_closed_and_without_privileges():
    assert [line for line in LINES if line.startswith("USER ")][-1] == "USER afa"
    (environment,) = [line for line in LINES if line.startswith("ENV ")]
    assert "RAY_AUTH_MODE=token" in environment.split()
    assert not any(word in line for line in LINES for word in ("EXPOSE", "RAY_AUTH_TOKEN"))


def test_its_extras_exist():
    (install,) = [line for line in LINES if "constraints.txt '.[" in line]
    extras = install.partition("'.[")[2].partition("]")[0].split(",")
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras) == set(known) - {"test", "dev"}


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """A folder with what the container has, as the file copies it."""
    folder = tmp_path_factory.mktemp("image")
    for *sources, _ in COPIES[:1]:
        for source in sources:
            shutil.copy(ROOT / source, folder)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", folder / "wheels", "."]
    built = subprocess.run(build, cwd=folder, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr  # dependencies come before the code
    for source, _ in COPIES[1:]:
        shutil.copytree(ROOT / source, folder / source, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def test_a_job_has_all_that_it_needs(image):
    env = {**os.environ, "PYTHONPATH": str(image), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "jobs/pretrain.py", "--config", "recipes/digits-joint.yaml", "--dry-run"]
    done = subprocess.run(command, cwd=image, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    where = [sys.executable, "-c", "import afa_dist, cluster.ray.leave; print(afa_dist.__file__)"]
    found = subprocess.run(where, cwd="/", env=env, capture_output=True, text=True, check=True).stdout
    assert found.startswith(str(image))
