"""The small run of a drill: where it takes place, and the processes of one start of it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import psutil

from afa_dist.address import below, working_copy
from afa_dist.errors import TrainingError
from afa_dist.training.mirror import Mirror
from afa_dist.training.run_dir import RunDirectory

FOLDER = Path(__file__).parents[2] / "jobs"

COMMANDS = {"pretrain": ("pretrain.py",), "generate": ("generate.py", "train")}

COMMON = {
    "data.train_limit": "600",
    "schedule.epochs": "6",
    "schedule.batch_size": "64",
    "ema.decay": "0.9",
    "checkpoint.every_steps": "3",
    "tracking.log_every_steps": "1",
    "tracking.tensorboard": "false",
    "scaling.threads": "1",
    "scaling.device": "cpu",
}

OWN = {
    "pretrain": {
        "data.crop_padding": "1",
        "model.width": "8",
        "model.projection_dim": "16",
        "attack.steps": "5",
        "attack.warmup": "0.5",
        "validation.steps": "2",
    },
    "generate": {
        "data.flip": "true",
        "network.channels": "8",
        "network.head_channels": "8",
        "network.multipliers": "1,2",
        "network.layers": "1",
        "network.attention": "4",
        "network.dropout": "0.1",
    },
}
"""A run of 48 steps on the digits in which everything that has a state has some: schedules, averages, best scores."""

STEPS = 48

PATIENCE_SECONDS = 180.0
"""The longest that any one thing may take before the drill gives up on it."""


@dataclasses.dataclass(frozen=True)
class Site:
    """Where one run of a drill takes place.

    job: which of `COMMANDS`. folder: of this machine; for its log and, if the run is not in an object store, the run
    itself. address: of the folder in an object store that the run is in; what a machine that can be lost has of it lies in
    `machine`.
    """

    way: str
    folder: Path
    address: str = ""
    job: str = "pretrain"

    @property
    def machine(self) -> Path:
        return self.folder / "machine"

    @property
    def directory(self) -> RunDirectory:
        if self.address:
            return RunDirectory(working_copy(below(self.address, "run"), self.machine))
        return RunDirectory(self.folder / "run")

    def saved(self) -> int:
        """Step of the checkpoint that the next start will go on from."""
        if self.address and not self.directory.has_results():
            return max(Mirror(below(self.address, "run")).steps(), default=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            newest = self.directory.checkpoints.newest(self.directory.run_id)
        return newest.step if newest else 0


class Attempt:
    """The processes of one start of a run."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.way = way = site.way
        self.directory = site.directory
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"] if way == "torchrun" else []
        workers = "2" if way == "ray" else "0"
        options = [part for name, value in {**COMMON, **OWN[site.job]}.items() for part in (f"--{name}", value)]
        script, *words = COMMANDS[site.job]
        command = [sys.executable, *launcher, str(FOLDER / script), *words, *options, "--scaling.workers", workers]
        # A cluster that the user addresses is left alone: drills kill.
        env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        env |= {"XDG_CACHE_HOME": str(site.machine)} if site.address else {}
        self.log = (site.folder / "log.txt").open("a")
        self.process = subprocess.Popen(
            [*command, "--runs_dir", site.address or str(site.folder), "--name", "run"],
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
        mark = "RayTrainWorker" if self.way == "ray" else COMMANDS[self.site.job][0]
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
