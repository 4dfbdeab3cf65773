"""One run of a drill: started, struck at random steps, started again, until it ends."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import psutil

from afa_dist.errors import TrainingError
from afa_dist.training.run_dir import RunDirectory

JOB = Path(__file__).parents[2] / "jobs" / "pretrain.py"

OPTIONS = [
    "--data.train_limit",
    "600",
    "--data.crop_padding",
    "1",
    "--model.width",
    "8",
    "--model.projection_dim",
    "16",
    "--attack.steps",
    "5",
    "--attack.warmup",
    "0.5",
    "--schedule.epochs",
    "6",
    "--schedule.batch_size",
    "64",
    "--validation.steps",
    "2",
    "--ema.decay",
    "0.9",
    "--checkpoint.every_steps",
    "3",
    "--tracking.log_every_steps",
    "1",
    "--tracking.tensorboard",
    "false",
    "--scaling.threads",
    "1",
    "--scaling.device",
    "cpu",
]
"""A run of 48 steps on the digits in which everything that has a state has some: schedules, averages, best scores."""

STEPS = 48

PATIENCE_SECONDS = 180.0
"""The longest that any one thing may take before the drill gives up on it."""


@dataclasses.dataclass(frozen=True)
class Blow:
    """What was done to a run: how, when the last noted step was `step`; it went on from the checkpoint of `resumed`."""

    what: str
    step: int
    resumed: int

    @property
    def repeated(self) -> int:
        """Steps that were made twice, as far as they had been noted."""
        return max(0, self.step - self.resumed)


class Attempt:
    """The processes of one start of a run."""

    def __init__(self, way: str, folder: Path) -> None:
        self.way = way
        self.directory = RunDirectory(folder / "run")
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"] if way == "torchrun" else []
        workers = "2" if way == "ray" else "0"
        command = [sys.executable, *launcher, str(JOB), *OPTIONS, "--scaling.workers", workers]
        # A cluster that the user addresses is left alone: drills kill.
        env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self.log = (folder / "log.txt").open("a")
        self.process = subprocess.Popen(
            [*command, "--runs_dir", str(folder), "--name", "run"],
            env={**env, "OMP_NUM_THREADS": "1"},
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )

    def last_step(self) -> int:
        rows = self.directory.metrics()
        return int(rows[-1]["step"]) if rows else 0

    def wait_for_step(self, step: int) -> bool:
        """Wait until `step` was noted; False if the run ended before."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.last_step() < step:
            if self.process.poll() is not None:
                return False
            if time.monotonic() > deadline:
                self.kill_all()
                raise TrainingError(f"no step {step} within {PATIENCE_SECONDS:g} s; see {self.log.name}")
            time.sleep(0.005)
        return True

    def wait(self) -> int:
        try:
            return self.process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise TrainingError(f"a run did not end within {PATIENCE_SECONDS:g} s; see {self.log.name}") from error
        finally:
            self.kill_all()
            self.log.close()

    def family(self) -> list[psutil.Process]:
        """The process that was started, and all that it started."""
        try:
            parent = psutil.Process(self.process.pid)
            return [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def workers(self) -> list[psutil.Process]:
        mark = "RayTrainWorker" if self.way == "ray" else JOB.name
        found = []
        for process in self.family()[1:]:
            with contextlib.suppress(psutil.NoSuchProcess):
                if mark in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def kill_all(self) -> None:
        """SIGKILL to everything of this start: what is left of a machine that lost its power."""
        victims = self.family()
        for process in victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(victims, timeout=30)


def strike(attempt: Attempt, rng: random.Random) -> str:
    """Do something to a running attempt; returns what. The attempt has ended afterwards."""
    what = rng.choice(list(BLOWS[attempt.way]))
    BLOWS[attempt.way][what](attempt, rng)
    attempt.wait()
    return what


def _kill_everything(attempt: Attempt, rng: random.Random) -> None:
    attempt.kill_all()


def _kill_the_first(attempt: Attempt, rng: random.Random) -> None:
    """The process that the user started, alone; what it leaves behind must not be in the way."""
    family = attempt.family()
    attempt.process.kill()
    attempt.process.wait()
    _, alive = psutil.wait_procs(family[1:], timeout=20)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _kill_a_worker(attempt: Attempt, rng: random.Random) -> None:
    """torchrun ends the others then, and Ray starts all of them again by itself."""
    if workers := attempt.workers():
        rng.choice(workers).kill()


def _warn(attempt: Attempt, rng: random.Random) -> None:
    attempt.process.send_signal(signal.SIGTERM)


def _kill_and_damage(attempt: Attempt, rng: random.Random) -> None:
    attempt.kill_all()
    store = attempt.directory.checkpoints
    if len(steps := store.steps()) > 1:
        file = rng.choice(sorted(store.path(steps[-1]).iterdir()))
        data = bytearray(file.read_bytes())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        file.write_bytes(data)


BLOWS: dict[str, dict[str, Callable[[Attempt, random.Random], None]]] = {
    "process": {"killed": _kill_everything, "warned": _warn, "killed, newest checkpoint damaged": _kill_and_damage},
    "torchrun": {"all killed": _kill_everything, "a worker killed": _kill_a_worker, "warned": _warn},
    "ray": {
        "a worker killed": _kill_a_worker,
        "driver killed": _kill_the_first,
        "all killed": _kill_everything,
        "warned": _warn,
    },
}


def run_once(way: str, folder: Path) -> None:
    """The undisturbed run.

    Raises:
        TrainingError: it does not end as it should.
    """
    folder.mkdir(parents=True)
    attempt = Attempt(way, folder)
    if code := attempt.wait():
        raise TrainingError(f"a run without disturbance ended with exit code {code}; see {folder / 'log.txt'}")


def run_struck(way: str, folder: Path, blows: int, rng: random.Random) -> list[Blow]:
    """A run that is struck up to `blows` times, at random steps, and started again each time.

    Raises:
        TrainingError: it cannot be brought to its end.
    """
    folder.mkdir(parents=True)
    struck = []
    for step in sorted(rng.sample(range(1, STEPS), rng.randint(1, blows))):
        attempt = Attempt(way, folder)
        if not attempt.wait_for_step(step):
            break
        time.sleep(rng.random() * 0.1)  # anywhere between two steps, or in the middle of a checkpoint
        at = attempt.last_step()
        what = strike(attempt, rng)
        struck.append((what, at, _whole(attempt.directory)))
    attempt = Attempt(way, folder)
    if code := attempt.wait():
        raise TrainingError(f"the last start of a run ended with exit code {code}; see {folder / 'log.txt'}")
    return [Blow(*entry) for entry in struck]


def _whole(directory: RunDirectory) -> int:
    """Step of the checkpoint that the next start will go on from."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        newest = directory.checkpoints.newest(directory.run_id)
    return newest.step if newest else 0
