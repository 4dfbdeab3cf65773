"""A disk that is full, read-only or gone: a clear word, earlier checkpoints intact, and the run goes on afterwards."""

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from afa_dist.training.run_dir import RunDirectory

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, str(ROOT / "jobs/pretrain.py"), "--scaling.workers", "0", "--scaling.threads", "1"]
COMMAND += ["--model.width", "8", "--model.projection_dim", "16", "--data.train_limit", "300", "--attack.steps", "1"]
COMMAND += [
    "--schedule.epochs",
    "6",
    "--schedule.batch_size",
    "64",
    "--validation.steps",
    "0",
    "--tracking.tensorboard",
    "false",
]


@contextlib.contextmanager
def disk(folder, megabytes):
    """A file system of so many megabytes of memory. Needs the right to mount, which the tests have."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def run(folder, workers=1, **options):
    command = [*COMMAND, "--runs_dir", str(folder)]
    if workers > 1:
        command[1:1] = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(workers)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False, **options)


def metrics_of(folder):
    return RunDirectory(folder / "run").metrics()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    done = run(folder)
    assert done.returncode == 0, done.stderr
    return folder


def fill(folder, leave_kilobytes):
    free = shutil.disk_usage(folder).free
    (folder / "filler").write_bytes(bytes(free - leave_kilobytes * 1024))


def room(folder):
    """Kilobytes for one checkpoint and the small files, not for two."""
    store = RunDirectory(folder / "run").checkpoints
    size = sum(file.stat().st_size for file in store.path(store.steps()[-1]).iterdir())
    return int(1.6 * size) // 1024 + 40


def test_a_full_disk_is_a_clear_error_and_nothing_is_lost(undisturbed, tmp_path):
    with disk(tmp_path / "disk", 8) as folder:
        fill(folder, room(undisturbed))
        done = run(folder)
        assert done.returncode == 1, done.stderr
        assert "No space left on device" in done.stderr
        assert "step 8: " in done.stderr
        assert "that of step 4 is whole, the same command continues from it" in done.stderr
        assert "Traceback" not in done.stderr
        assert RunDirectory(folder / "run").checkpoints.newest().step == 4
        (folder / "filler").unlink()
        done = run(folder)
        assert done.returncode == 0, done.stderr
        assert metrics_of(folder) == metrics_of(undisturbed)


def test_two_workers_both_end_when_the_disk_is_full(undisturbed, tmp_path):
    with disk(tmp_path / "disk", 8) as folder:
        fill(folder, room(undisturbed))
        done = run(folder, workers=2)
        assert done.returncode == 1
        assert done.stderr.count("No space left on device") >= 2  # told by each


def test_a_disk_that_is_full_from_the_start_is_answered_in_words(tmp_path):
    with disk(tmp_path / "disk", 1) as folder:
        fill(folder, 0)
        done = run(folder)
        assert done.returncode == 1
        assert "No space left on device" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_disk_that_turns_read_only(undisturbed, tmp_path):
    """Remounted between two starts; the user has the right to write, the disk does not let them."""
    with disk(tmp_path / "disk", 8) as folder:
        shutil.copytree(undisturbed / "run", folder / "run")
        for step in (24, 20):
            shutil.rmtree(RunDirectory(folder / "run").checkpoints.path(step), ignore_errors=True)
        (folder / "run/summary.json").unlink()
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        done = run(folder)
        assert done.returncode in (1, 2)
        assert "ead-only file system" in done.stderr
        assert "Traceback" not in done.stderr
