"""A warned run finishes its step, saves, and goes on later as if nothing had been."""

import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from afa_dist.cli.job import STOPPED
from afa_dist.config import CheckpointConfig
from afa_dist.data.catalogue import load_splits
from afa_dist.distributed import World, join_group
from afa_dist.errors import Stopped
from afa_dist.training import warned
from afa_dist.training.job import train
from afa_dist.training.metrics import Meter
from afa_dist.training.run_dir import RunDirectory
from afa_dist.training.warned import Warnings, heed_signals
from tests.training.test_resume import RUNS

ROOT = Path(__file__).parents[2]
RUN = dataclasses.replace(RUNS["finetune"], checkpoint=CheckpointConfig(every_epochs=100))


def warned_at(*calls):
    """A source that has a reason at these calls; the first one comes before any step."""
    count = itertools.count()
    return lambda: "a test" if next(count) in calls else ""


def weights(directory, step):
    return directory.checkpoints.load(step).model


@pytest.fixture(scope="module")
def splits():
    return load_splits(RUN.data)


@pytest.fixture(scope="module")
def undisturbed(splits, tmp_path_factory):
    directory = RunDirectory(tmp_path_factory.mktemp("whole") / "run")
    directory.create(RUN, {})
    train(RUN, splits, directory, World(), on_row=lambda row: None)
    return directory


def test_no_step_is_lost_and_nothing_shows_afterwards(splits, undisturbed, tmp_path):
    """Warned before the first step, after it, in the middle of an epoch and of a row of metrics, and in a validation."""
    directory = RunDirectory(tmp_path / "run")
    directory.create(RUN, {})
    done = 0
    for call, steps in ((0, 0), (1, 1), (2, 3), (2, 4), (1, 5)):
        with pytest.raises(Stopped, match="a test"):
            train(RUN, splits, directory, World(), lambda row: None, Warnings(warned_at(call)))
        assert directory.checkpoints.steps()[-1:] == ([steps] if steps else [])
        done = steps
    summary = train(RUN, splits, directory, World(), on_row=lambda row: None)
    assert done < summary["steps"]
    assert directory.metrics() == undisturbed.metrics()
    ours, theirs = weights(directory, summary["steps"]), weights(undisturbed, summary["steps"])
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_warning_in_the_last_step_changes_nothing(splits, undisturbed, tmp_path):
    last = undisturbed.checkpoints.steps()[-1]
    directory = RunDirectory(tmp_path / "run")
    directory.create(RUN, {})
    summary = train(
        RUN, splits, directory, World(), lambda row: None, Warnings(warned_at(last + 2))
    )  # two validations asked as well
    assert summary["steps"] == last


def worker(rank, size, folder):
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    join_group("gloo", rank=rank, world_size=size, store=dist.FileStore(f"{folder}/store", size))
    directory = RunDirectory(Path(folder) / "run")
    splits = load_splits(RUN.data)
    asked = []
    for own, cluster in ((warned_at(3 if rank == 1 else -1), None), (str, lambda: asked.append(1) or "the cluster")):
        with pytest.raises(Stopped) as stopped:
            train(RUN, splits, directory, World.current(), lambda row: None, Warnings(own, cluster))
        Path(folder, f"{rank}-{stopped.value}").touch()
    assert asked == [1]
    train(RUN, splits, directory, World.current(), lambda row: None)


def test_all_workers_stop_when_one_is_warned(undisturbed, tmp_path):
    """Rank 1 alone gets the first warning; the second comes from a question that all ask together, on rank 0's word."""
    directory = RunDirectory(tmp_path / "run")
    directory.create(RUN, {})
    mp.spawn(worker, args=(2, str(tmp_path)), nprocs=2)
    assert {path.name for path in tmp_path.glob("[01]-*")} == {
        f"{r}-{why}" for r in (0, 1) for why in ("a test", "the cluster")
    }
    rows, wanted = directory.metrics(), undisturbed.metrics()
    assert [(row["step"], row["phase"]) for row in rows] == [(row["step"], row["phase"]) for row in wanted]
    for row, want in zip(rows, wanted, strict=True):  # two workers round otherwise than one
        assert row["epoch"] == want["epoch"]
        assert row.get("loss", 0) == pytest.approx(want.get("loss", 0), rel=0.2)


def test_the_cluster_is_asked_once_in_a_while(monkeypatch):
    asked = []
    warnings = Warnings(cluster=lambda: asked.append(1) or "")
    for _ in range(50):
        warnings.agree(World())
    assert len(asked) == 1
    monkeypatch.setattr(warned, "ASK_SECONDS", 0.0)
    for _ in range(3):
        time.sleep(0.001)
        warnings.agree(World())
    assert len(asked) == 4


def test_a_half_filled_meter_goes_on_with_another_number_of_workers():
    """Saved by two workers, loaded by one, and the other way: the means are those of all images."""
    state = {"names": ["loss"], "counts": [32], "sums": [[3.0], [5.0]]}
    meter = Meter(World())
    meter.load(state)
    meter.add({"loss": (torch.tensor(8.0), 64)})
    assert meter.take() == {"loss": pytest.approx(16 / 128)}
    first, second = Meter(World(0, 2)), Meter(World(1, 2))
    for half in (first, second):
        half.load({"names": ["loss"], "counts": [64], "sums": [[8.0]]})
    assert first._sums["loss"] + second._sums["loss"] == 8
    assert first._counts["loss"] + second._counts["loss"] == 64


def test_signals_are_noted_inside_and_left_alone_outside(monkeypatch):

    def as_before(number, frame):
        raise KeyError("as before")

    signal.signal(signal.SIGUSR2, as_before)
    before = signal.getsignal(signal.SIGTERM)
    with heed_signals() as note:
        assert note() == ""
        for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGTERM):
            os.kill(os.getpid(), number)
        assert note() == "SIGUSR2"  # the first
        monkeypatch.setattr(warned, "ECHO_SECONDS", -1.0)
        with pytest.raises(KeyError, match="as before"):
            os.kill(os.getpid(), signal.SIGUSR2)
    assert signal.getsignal(signal.SIGTERM) == before
    signal.signal(signal.SIGUSR2, signal.SIG_DFL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2], ids=["SIGTERM", "SIGUSR2"])
def test_the_command_line_answers_a_signal_with_its_own_code(number, tmp_path):
    command = [sys.executable, str(ROOT / "jobs/pretrain.py"), "--scaling.workers", "0", "--scaling.threads", "1"]
    command += ["--model.width", "8", "--schedule.epochs", "500", "--tracking.tensorboard", "false"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "runs/run/metrics.jsonl"
    try:
        deadline = time.monotonic() + 60
        while not (metrics.exists() and metrics.stat().st_size):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(number)
        _, message = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == STOPPED == 75
    assert f"stopped by {number.name}, all is saved; the same command continues" in message
    saved = RunDirectory(tmp_path / "runs/run").checkpoints.newest()
    assert saved.step >= json.loads(metrics.read_text().splitlines()[-1])["step"]
