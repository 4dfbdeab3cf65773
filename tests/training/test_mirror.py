"""Mirrors: a disk is lost and the run goes on elsewhere; a mirror fails and the run does not; what cannot be one."""

import os
import shutil
import signal
import subprocess
import time

import pytest

from afa_dist.files import sha256
from afa_dist.training.run_dir import RunDirectory
from tests.training.test_storage import COMMAND, disk, fill


def start(folder, mirror, *options, **popen):
    command = [*COMMAND, "--runs_dir", str(folder), "--checkpoint.mirror", mirror, *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **popen)


def run(folder, mirror, *options):
    process = start(folder, mirror, *options)
    out, err = process.communicate(timeout=120)
    assert "Traceback" not in err, err
    return process.returncode, out, err


def content(folder):
    """Hashes of what must be alike here and in the mirror."""
    files = [
        file
        for file in folder.rglob("*")
        if file.is_file() and file.name != "lock" and file.name[0] != "." and file.suffix != ".damaged"
    ]
    return {file.relative_to(folder).as_posix(): sha256(file) for file in files}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    code, _, err = run(folder / "runs", f"file://{folder / 'mirror'}")
    assert code == 0, err
    return folder


def test_the_mirror_is_the_run(undisturbed):
    assert content(undisturbed / "mirror/run") == content(undisturbed / "runs/run")


def final(folder):
    directory = RunDirectory(folder / "run")
    newest = directory.checkpoints.path(directory.checkpoints.steps()[-1])
    return newest.name, sha256(newest / "model.safetensors"), directory.metrics()


@pytest.mark.parametrize("damaged", [False, True], ids=["whole", "newest damaged"])
def test_a_lost_disk_is_replaced_by_the_mirror(damaged, undisturbed, tmp_path):
    """Killed, the run directory gone; the same command, as if on another machine, ends as if nothing had been."""
    mirror = tmp_path / "mirror"
    process = start(tmp_path / "runs", f"file://{mirror}", "--checkpoint.every_steps", "1")
    deadline = time.monotonic() + 60
    while len(list(mirror.glob("run/checkpoints/step-*/manifest.json"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    shutil.rmtree(tmp_path / "runs")
    steps = sorted(path.parent.name for path in mirror.glob("run/checkpoints/step-*/manifest.json"))
    if damaged:
        (mirror / "run/checkpoints" / steps[-1] / "model.safetensors").write_bytes(b"half")
    code, _, err = run(tmp_path / "runs", f"file://{mirror}", "--checkpoint.every_steps", "1")
    assert code == 0, err
    assert f"was brought to step {int(steps[-1][5:])} from its mirror" in err
    assert ("damaged checkpoint passed over" in err) == damaged
    name, weights, rows = final(tmp_path / "runs")
    want = final(undisturbed / "runs")
    assert (name, weights) == want[:2]
    validations = [[row for row in history if row["phase"] == "validation"] for history in (rows, want[2])]
    assert validations[0] == validations[1]
    assert len({(row["step"], row["phase"]) for row in rows}) == len(rows)
    for step in RunDirectory(mirror / "run").checkpoints.steps():
        assert RunDirectory(mirror / "run").checkpoints.load(step).step == step  # what was damaged has been replaced


def test_a_full_mirror_does_not_stop_the_run_and_is_completed_later(undisturbed, tmp_path):
    with disk(tmp_path / "disk", 8) as folder:
        fill(folder, 100)
        code, _, err = run(tmp_path / "runs", f"file://{folder}")
        assert code == 1
        assert err.count("training goes on, it is tried again") == 1
        assert "is complete in" in err
        assert "No space left on device" in err
        assert final(tmp_path / "runs") == final(undisturbed / "runs")
        (folder / "filler").unlink()
        code, out, err = run(tmp_path / "runs", f"file://{folder}")
        assert code == 0, err
        assert "already finished" in out
        assert content(folder / "run") == content(tmp_path / "runs/run")


def test_another_run_in_the_mirror_is_left_alone(undisturbed, tmp_path):
    """One made here earlier, and one of another specification."""
    mirror = tmp_path / "mirror"
    shutil.copytree(undisturbed / "mirror", mirror)
    before = content(mirror)
    code, _, err = run(tmp_path / "runs", f"file://{mirror}", "--seed", "1")
    assert code == 2
    assert "seed: recorded 0, now 1" in err
    other = [*COMMAND, "--runs_dir", str(tmp_path / "other")]
    subprocess.run(other, check=True, timeout=60, capture_output=True)
    (tmp_path / "other/run/summary.json").unlink()
    code, _, err = run(tmp_path / "other", f"file://{mirror}")
    assert code == 2
    assert "mirrors another run" in err
    assert content(mirror) == before


@pytest.mark.parametrize(
    ("mirror", "words"),
    [
        ("nowhere://bucket/x", "nowhere"),
        ("plain/folder", "checkpoint.mirror"),
        ("s3://key:hidden@bucket/x", "holds a secret"),
        ("file://{runs}", "is where the run itself is"),
        ("s3://bucket/x?endpoint_override=127.0.0.1:1&scheme=http&region=us-east-1", "checkpoint.mirror"),
    ],
)
def test_what_cannot_be_a_mirror_is_said_before_anything_starts(mirror, words, tmp_path):
    command = [*COMMAND, "--runs_dir", str(tmp_path), "--checkpoint.mirror", mirror.format(runs=tmp_path), "--dry-run"]
    env = {**os.environ, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=env)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "hidden" not in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
