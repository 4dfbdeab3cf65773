"""Seconds from typing a command to the first optimiser step: in this process, with two Ray workers, on a running cluster.

    python benchmarks/startup.py

The digits recipe, `jobs/pretrain.py --config recipes/digits.yaml`, and beside it the least that Ray Train can do: a script
that connects to Ray in the same way and whose two workers wrap one linear layer in DDP and step once. Each start is a
command of its own that is stopped after its first step (the first row of metrics.jsonl). The cluster is started here with a
token, has run a job before, and is ended here. Prints a table and writes results/startup.json. Run it on an otherwise idle
machine.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import torch
from measuring import ROOT, spread, write_record
from rich.table import Table

from afa_dist.cli.words import say
from afa_dist.config import ScalingConfig
from afa_dist.runtime.cluster import session

PATIENCE_SECONDS = 120
DIGITS = ["jobs/pretrain.py", "--config", "recipes/digits.yaml", "--scaling.threads", "1", "--name", "run"]
BARE = [__file__, "--bare"]


def bare(folder: str) -> None:
    """Ray Train with nothing of ours in it but the connection."""
    with session(ScalingConfig(workers=2, threads=1)):
        from ray import train
        from ray.train.torch import TorchTrainer

        TorchTrainer(
            _bare_worker,
            train_loop_config={"folder": folder},
            scaling_config=train.ScalingConfig(num_workers=2),
            run_config=train.RunConfig(name="ray", storage_path=folder),
        ).fit()


def _bare_worker(config: dict[str, str]) -> None:
    net = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 4))
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
    net(torch.ones(1, 4)).sum().backward()
    optimiser.step()
    if torch.distributed.get_rank() == 0:
        folder = Path(config["folder"]) / "run"
        folder.mkdir()
        (folder / "metrics.jsonl").write_text("{}")
    time.sleep(PATIENCE_SECONDS)  # until it is stopped, as a training run would be


def hear_interrupts() -> None:
    """What a shell starts in the background is deaf to Ctrl-C, and so would be what it starts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def seconds_to_first_step(command: list[str], env: Mapping[str, str]) -> float:
    with tempfile.TemporaryDirectory() as folder, Path(folder, "errors").open("w") as errors:
        rows = Path(folder) / "run" / "metrics.jsonl"
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *command, folder],
            cwd=ROOT,
            env=dict(env),
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
            preexec_fn=hear_interrupts,
        )
        try:
            while not (rows.exists() and rows.stat().st_size):
                if process.poll() is not None or time.perf_counter() - start > PATIENCE_SECONDS:
                    told = Path(folder, "errors").read_text()
                    raise SystemExit(f"no step within {PATIENCE_SECONDS} s, or the job ended ({process.poll()}): {told}")
                time.sleep(0.01)
            return time.perf_counter() - start
        finally:
            process.send_signal(signal.SIGINT)  # a cluster of its own goes with it
            process.wait(timeout=60)


@contextlib.contextmanager
def cluster() -> Iterator[dict[str, str]]:
    """A running cluster of two CPUs; the environment that addresses it."""
    with tempfile.TemporaryDirectory(prefix="afa-", dir="/tmp") as name, socket.socket() as probe:
        folder = Path(name)  # short: Ray's sockets lie below it
        token = folder / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        env = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_TMPDIR": str(folder / "ray")}
        ray = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--num-cpus=2", f"--port={port}"]
        ray += [f"--temp-dir={folder / 'ray'}", "--node-ip-address=127.0.0.1", "--disable-usage-stats"]
        ray += ["--include-dashboard=false"]
        head = subprocess.Popen(ray, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            yield {**env, "RAY_ADDRESS": f"127.0.0.1:{port}"}
        finally:
            for process in [*psutil.Process(head.pid).children(recursive=True), psutil.Process(head.pid)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            head.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    parser.add_argument("--bare", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        bare(options.bare)
        return 0
    plain = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    here, workers = ([*DIGITS, "--scaling.workers", count, "--runs_dir"] for count in ("0", "2"))
    taken: dict[str, list[float]] = {}
    with cluster() as joined:
        time.sleep(10)  # it is to be idle, not starting, when others are measured
        seconds_to_first_step(workers, joined)  # the cluster has run one before
        starts = {
            "in process": (here, plain),
            "2 Ray workers": (workers, plain),
            "2 Ray workers, bare Ray Train": (BARE, plain),
            "2 workers of a running cluster": (workers, joined),
            "2 workers of a running cluster, bare Ray Train": (BARE, joined),
        }
        for _ in range(options.repeats):
            for name, (command, env) in starts.items():
                taken.setdefault(name, []).append(seconds_to_first_step(command, env))
    record: dict[str, Any] = {"what": "seconds from the command to the first optimiser step, digits", "seconds": taken}
    table = Table("", "seconds, median (min to max)", "more than in process")
    for name, values in taken.items():
        more = statistics.median(values) - statistics.median(taken["in process"])
        table.add_row(name, spread(values, digits=1), f"{more:.1f}")
    say(table)
    write_record(record, options.results, "startup")
    return 0


if __name__ == "__main__":
    sys.exit(main())
