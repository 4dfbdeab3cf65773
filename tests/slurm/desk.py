"""A person at the terminal of a Slurm cluster: submits with the launcher, looks, waits."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]

SMALL = ["--data.train_limit", "256", "--data.held_out", "32", "--model.width", "8", "--schedule.batch_size", "64"]
SMALL += ["--attack.steps", "2", "--tracking.tensorboard", "false", "--scaling.threads", "1"]
RECIPE = ["--config", str(ROOT / "recipes/digits.yaml")]

ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE"}


class Desk:
    """In `folder`, on a Slurm reached through `environment`, with a site's defaults."""

    def __init__(
        self, folder: Path, environment: dict[str, str], user: str = "", python: str = sys.executable, root: Path = ROOT
    ) -> None:
        self.folder = folder
        self.user = user
        self.python = python
        self.store = folder / "store"
        site = {"folder": str(self.store), "time": "10", "signal_seconds": 20, "cpus_per_task": 1, "drain_seconds": 3}
        (folder / "site.yaml").write_text(yaml.safe_dump(site))
        self.environment = {**environment, "PYTHONPATH": str(root), "AFA_DIST_SITE": str(folder / "site.yaml")}
        self.environment |= {"OMP_NUM_THREADS": "1", "HOME": str(folder)}

    def command(self, *words: object) -> list[str]:
        own = [self.python, "-m", "cluster.slurm", *map(str, words)]
        return ["setpriv", f"--reuid={self.user}", f"--regid={self.user}", "--clear-groups", *own] if self.user else own

    def run(self, *words: object) -> subprocess.CompletedProcess:
        """The launcher, to its end."""
        return subprocess.run(
            self.command(*words), cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=180
        )

    def submit(self, *words: object) -> list[str]:
        """Submit; the numbers of the jobs."""
        done = self.run(*words)
        assert done.returncode == 0, done.stdout + done.stderr
        return re.findall(r"^job (\d+):", done.stdout, re.M)

    def slurm(self, *command: str) -> str:
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True, timeout=60).stdout

    def states(self, job: str) -> list[str]:
        """Of a job, or of the elements of an array."""
        return [
            line.split()[0] for line in self.slurm("squeue", "-h", "-r", "-t", "all", "-j", job, "-o", "%T").splitlines()
        ]

    def wait(self, job: str, seconds: float = 240) -> list[str]:
        """Until a job, with all its requeues, has ended; the states of its elements."""
        deadline = time.monotonic() + seconds
        while not (states := self.states(job)) or not set(states) <= ENDED:
            assert time.monotonic() < deadline, self.slurm("squeue") + self.log(job)
            time.sleep(0.5)
        return states

    def until(self, condition, what: str, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"{what} did not come: {self.slurm('squeue')}"
            time.sleep(0.2)

    def log(self, job: str) -> str:
        return "\n".join(path.read_text() for path in sorted(self.store.glob(f"*/*/{job}_*log.out")))

    def events(self, job: str) -> list[dict]:
        """Starts and ends that a job's supervisor recorded."""
        paths = self.store.glob(f"*/*/attempts-{job}.jsonl")
        return [json.loads(line) for path in paths for line in path.read_text().splitlines()]

    def ends(self, job: str) -> list[str]:
        return [event["ended"] for event in self.events(job) if "ended" in event]

    def run_dir(self, name: str) -> Path:
        return self.folder / "runs" / name

    def step(self, name: str) -> int:
        """The newest checkpoint's step."""
        found = [int(path.name.partition("-")[2]) for path in self.run_dir(name).glob("checkpoints/step-*")]
        return max(found, default=0)


def weights(run: Path) -> dict[str, bytes]:
    """The tensors of a run's last checkpoint, as they lie on the disk."""
    last = max(run.glob("checkpoints/step-*"))
    return {path.name: path.read_bytes() for path in sorted(last.glob("*.safetensors"))}


def here(folder: Path, script: str, *options: object) -> Path:
    """The same job without Slurm, undisturbed."""
    # Not on the cluster that other tests have joined.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "jobs" / f"{script}.py"), *map(str, options)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "runs"
