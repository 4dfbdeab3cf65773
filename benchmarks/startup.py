"""Seconds from typing a command to the first optimiser step: in this process, with two Ray workers, on a running cluster.

    python benchmarks/startup.py

The digits recipe, `jobs/pretrain.py --config recipes/digits.yaml`; each start is a command of its own that is stopped after
its first step (the first row of metrics.jsonl). The cluster is started here with a token, has run a job before, and is
ended here. Prints a table and writes results/startup.json. Run it on an otherwise idle machine.
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
from measuring import ROOT, spread, write_record
from rich.table import Table

from afa_dist.cli.console import say

PATIENCE_SECONDS = 120
COMMAND = [sys.executable, "jobs/pretrain.py", "--config", "recipes/digits.yaml", "--scaling.threads", "1"]


def seconds_to_first_step(workers: int, env: Mapping[str, str]) -> float:
    with tempfile.TemporaryDirectory() as folder, Path(folder, "errors").open("w") as errors:
        rows = Path(folder) / "run" / "metrics.jsonl"
        start = time.perf_counter()
        process = subprocess.Popen(
            [*COMMAND, "--runs_dir", folder, "--name", "run", "--scaling.workers", str(workers)],
            cwd=ROOT,
            env=dict(env),
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
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
    options = parser.parse_args()
    plain = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    taken: dict[str, list[float]] = {name: [] for name in ("in process", "2 Ray workers", "2 workers of a running cluster")}
    first, second, third = taken.values()
    with cluster() as joined:
        time.sleep(10)  # it is to be idle, not starting, when others are measured
        seconds_to_first_step(2, joined)  # the cluster has run one before
        for _ in range(options.repeats):
            first.append(seconds_to_first_step(0, plain))
            second.append(seconds_to_first_step(2, plain))
            third.append(seconds_to_first_step(2, joined))
    record: dict[str, Any] = {"what": "seconds from the command to the first optimiser step, digits", "seconds": taken}
    table = Table("", "seconds to the first step, median (min to max)", "more than in process")
    for name, values in taken.items():
        more = statistics.median(values) - statistics.median(first)
        table.add_row(name, spread(values, digits=1), f"{more:.1f}")
    say(table)
    write_record(record, options.results, "startup")
    return 0


if __name__ == "__main__":
    sys.exit(main())
