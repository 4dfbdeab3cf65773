"""Workers that hang or are killed are named, with their host, within the time that was set."""

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
TIMEOUT = 4

WORKER = """
import os, sys, time
from pathlib import Path
import torch, torch.distributed as dist
from afa_dist.data.catalogue import load_splits
from afa_dist.distributed import World
from afa_dist.errors import LostWorker
from afa_dist.training import loop
from afa_dist.training.job import train
from afa_dist.training.run_dir import RunDirectory
from tests.training.test_watchdog import run_of

rank, folder, what = int(sys.argv[1]), sys.argv[2], sys.argv[3]
torch.set_num_threads(1)
dist.init_process_group("gloo", rank=rank, world_size=3, store=dist.FileStore(folder + "/store", 3))
run = run_of(what)
original = loop.Loader.batch

def batch(self, step):
    if step == 4 and rank == 1 and what == "hang":
        time.sleep(1000)
    if step == 4 and rank == 1:
        open(folder + "/there", "w").close()
    if what == "slow" and rank == 1:
        time.sleep(0.5)  # the others are without a sign of progress meanwhile, but not for long enough
    return original(self, step)

loop.Loader.batch = batch
try:
    train(run, load_splits(run.data), RunDirectory(Path(folder) / "run"), World.current(), lambda row: None)
except LostWorker as lost:
    print("lost:", lost, file=sys.stderr)
    sys.stderr.flush()
    os._exit(3)
"""


def run_of(what):
    from afa_dist.config import ScalingConfig, ScheduleConfig
    from tests.training.test_resume import RUNS

    schedule = ScheduleConfig(epochs=100 if what == "kill" else 3, batch_size=48)
    return dataclasses.replace(RUNS["pretrain"], schedule=schedule, scaling=ScalingConfig(timeout_seconds=TIMEOUT))


def start(folder, what):
    from afa_dist.training.run_dir import RunDirectory

    RunDirectory(folder / "run").create(run_of(what), {})
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    commands = [[sys.executable, "-c", WORKER, str(rank), str(folder), what] for rank in range(3)]
    return [subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) for command in commands]


def outcomes(processes):
    try:
        told = [process.communicate(timeout=60)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], told


def test_a_worker_that_hangs_is_named_by_all(tmp_path):
    codes, told = outcomes(start(tmp_path, "hang"))
    assert codes == [1, 1, 1]
    for text in told:
        assert f"no progress for {TIMEOUT} s: worker 1 ({socket.gethostname()}, process" in text
        assert "hangs in" in text
        assert "worker 0" not in text
    assert "worker 1" in (tmp_path / "run/troubles.jsonl").read_text()


def test_a_worker_that_is_killed_is_named_by_the_others(tmp_path):
    processes = start(tmp_path, "kill")
    deadline = time.monotonic() + 60
    while not (tmp_path / "there").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(2 * TIMEOUT / 10)  # it has given a sign of life
    processes[1].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    codes, told = outcomes(processes)
    assert time.monotonic() - killed < 2 * TIMEOUT
    assert codes == [3, -signal.SIGKILL, 3]
    for text in (told[0], told[2]):
        assert f"worker 1 ({socket.gethostname()}, process {processes[1].pid}) is gone" in text


def test_slow_is_not_hung(tmp_path):
    """Steps take a while, all together longer than the timeout."""
    began = time.monotonic()
    codes, told = outcomes(start(tmp_path, "slow"))
    assert codes == [0, 0, 0], told
    assert time.monotonic() - began > TIMEOUT
