"""Jobs for a cluster that runs: what is sent, exit codes, a stopped job."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from afa_dist.training.run_dir import RunDirectory
from cluster.ray.submission import Request, entrypoint, package, runtime_env
from tests.nodes import wait_for
from tests.runtime.test_jobs import SMALL, submit

ROOT = Path(__file__).parents[2]


def launch(*words, env=None, cwd=ROOT):
    return [sys.executable, "-m", "cluster.ray", *map(str, words)], {"env": {**os.environ, **(env or {})}, "cwd": cwd}


def run(*words, **options):
    command, rest = launch(*words, **options)
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, **rest)


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), max_size=4))
def test_no_option_reaches_a_shell_unquoted(options):
    line = entrypoint("pretrain", options, Request())
    done = subprocess.run(["sh", "-c", f"printf '%s\\0' {line.partition(' ')[2]}"], capture_output=True, check=True)
    assert done.stdout.decode().split("\0")[:-1] == ["jobs/pretrain.py", *options]


def test_mistakes_are_named_before_anything_is_sent(tmp_path):
    for words, what in (
        (["pretrian"], "'pretrian' is not a job; choose one of"),
        (["pretrain", "--config", "x.yaml"], "write it behind --"),
        (["pretrain", "--address", "10.0.0.1:8265"], "is not the address of a job server"),
        (["pretrain", "--address", "http://127.0.0.1:1"], "no Ray cluster answers at http://127.0.0.1:1"),
        (["pretrain", "--stop_seconds", "soon", "--adress", "x"], "did you mean --address?"),
    ):
        done = run(*words)
        assert done.returncode == 2, done.stdout + done.stderr
        assert what in done.stderr
        assert "Traceback" not in done.stderr


def test_a_recipe_from_elsewhere_is_taken_along(tmp_path):
    recipe = tmp_path / "mine.yaml"
    (tmp_path / "below.yaml").write_text("model: {width: 8}\n")
    recipe.write_text("base: below.yaml\nseed: 5\n")
    given = ["--config", str(recipe), "--seed", "3", "--config=recipes/digits.yaml"]
    code, options, _ = package(tmp_path / "store", given)
    assert options == ["--config", "submitted/config-mine.yaml", "--seed", "3", "--config=recipes/digits.yaml"]
    assert yaml.safe_load((code / options[1]).read_text()) == {"model": {"width": 8}, "seed": 5}  # what it builds on too
    assert json.loads((code / "code.json").read_text())["commit"]
    from ray._private.runtime_env.packaging import create_package

    create_package(str(code), tmp_path / "package.zip", include_gitignore=True)
    with zipfile.ZipFile(tmp_path / "package.zip") as sent:
        names = {name for name in sent.namelist() if not name.endswith("/")}
    assert names == {str(path.relative_to(code)) for path in code.rglob("*") if path.is_file()}
    assert "afa_dist/data/catalogue.py" in names
    assert runtime_env(code, Request(stop_seconds=7))["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"] == "7"


@pytest.mark.ray
def test_data_and_runs_stay_at_home(ray_cluster, tmp_path):
    """Through Ray's own command, from a checkout in which people work."""
    checkout = tmp_path / "checkout"
    subprocess.run(["git", "clone", "-q", "--depth", "1", f"file://{ROOT}", checkout], check=True)
    mine = ["runs/a/checkpoints/x", "data/cifar10/train.parquet", "datasets/a.png", "exported/model.safetensors", ".venv/x"]
    for name in mine:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text("mine")
    for name in (".rayignore", ".gitignore"):
        (checkout / name).write_bytes((ROOT / name).read_bytes())
    program = "import afa_dist, os; print(*('FOUND:' + os.path.join(a, f) for a, _, b in os.walk('.') for f in b))"
    program += "; print('FROM:' + os.path.relpath(afa_dist.__file__))"
    done = submit("python", "-c", program, cwd=checkout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FROM:afa_dist/__init__.py" in done.stdout.split()  # and not from where it is installed
    found = {word.removeprefix("FOUND:./") for word in done.stdout.split() if word.startswith("FOUND:")}
    tracked = subprocess.run(["git", "ls-files"], cwd=checkout, check=True, capture_output=True, text=True).stdout.split()
    code = {name for name in tracked if not name.startswith("results/")} - {".rayignore", ".gitignore"}
    assert code <= found
    assert not [name for name in found if name in mine or name.startswith((".git/", "results/"))]


@pytest.mark.ray
def test_exit_codes_pass_through(ray_cluster, tmp_path):
    """The job's own, where Ray's command has 1 for all."""
    done = run("pretrain", "--", "--attack.eps", "300", "--runs_dir", tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "attack.eps: 300 is not allowed" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.ray
def test_a_job_whose_head_leaves_or_that_is_stopped_has_saved_its_last_step(ray_cluster, tmp_path):
    """The head is about to end: the job fails, to be tried again. Then it is stopped, which nobody goes on with."""
    options = [*SMALL, "--schedule.epochs", "500", "--scaling.workers", "1", "--runs_dir", tmp_path, "--name", "long"]
    command, rest = launch("pretrain", "--", *options, "--tracking.log_every_steps", "1")
    log = tmp_path / "log"
    directory = RunDirectory(tmp_path / "long")

    def start(until: int) -> subprocess.Popen:
        with log.open("w") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file, **rest)
        wait_for(lambda: last_step(directory) >= until, process, 120, log)
        return process

    process = start(until=20)
    leave = [sys.executable, "-m", "cluster.ray.leave", "--jobs", "--seconds", "60"]
    left = subprocess.run(leave, cwd=ROOT, capture_output=True, text=True, timeout=90, check=False)
    assert left.returncode == 0 and "all jobs have ended" in left.stdout, left.stdout + left.stderr
    assert process.wait(timeout=60) == 75, log.read_text()
    saved = directory.checkpoints.newest().step
    assert saved == last_step(directory) >= 20
    process = start(until=saved + 10)
    (line,) = [line for line in log.read_text().splitlines() if "ray job stop" in line]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    stop = ["sh", "-c", line.partition(": ")[2]]
    subprocess.run(stop, env={**os.environ, "PATH": path}, check=True, timeout=60, capture_output=True)
    assert process.wait(timeout=60) == 143, log.read_text()
    assert "the job was stopped; the same command continues it" in log.read_text()
    assert directory.checkpoints.newest().step == last_step(directory) > saved


def last_step(directory):
    return max((row["step"] for row in directory.metrics()), default=0)
