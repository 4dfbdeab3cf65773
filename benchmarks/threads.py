"""What waiting threads cost: a training step with OpenMP's default and with the jobs' setting, on idle and on busy cores.

    python benchmarks/threads.py

Each figure is of a process of its own with as many threads as there are cores; "busy" is beside one process a core that
never rests, each in a session of its own, as those of other users and terminals are. Prints a table and writes
results/threads.json. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from afa_dist.cli import SPIN_COUNT
from afa_dist.files import write_json
from afa_dist.training.provenance import hardware

ROOT = Path(__file__).resolve().parents[1]
REPEATS = 3
SPIN = {"OpenMP's default": None, "the jobs' setting": SPIN_COUNT}
STEP = """
import json, sys, time, torch
from afa_dist.config import ModelConfig
from afa_dist.models.build import DataShape, build_classifier
torch.set_num_threads(int(sys.argv[1]))
net = build_classifier(ModelConfig(arch="small-resnet", width=32), DataShape(1, (0.3,), (0.3,), tuple("0123456789")))
x, y = torch.rand(128, 1, 8, 8), torch.arange(128) % 10
seconds = []
for _ in range(30):
    start = time.perf_counter()
    torch.nn.functional.cross_entropy(net(x), y).backward()
    seconds.append(time.perf_counter() - start)
print(sorted(seconds)[15])
"""


def main() -> int:
    cores = len(os.sched_getaffinity(0))
    figures: dict[str, dict[str, list[float]]] = {state: {name: [] for name in SPIN} for state in ("idle", "busy")}
    for state, competitors in (("idle", 0), ("busy", cores)):
        for _ in range(REPEATS):  # in turns, so that a drift of the machine hits both
            for name, spin in SPIN.items():
                with busy(competitors):
                    figures[state][name].append(1000 * step_seconds(cores, spin))
                print(f"{state}, {name}: {figures[state][name][-1]:.0f} ms", flush=True)
    record = {
        "what": "median milliseconds of a training step, small-resnet of width 32 on 128 images of 8x8",
        "milliseconds": figures,
        "ratio": {
            state: statistics.median(a / b for a, b in zip(*values.values(), strict=True))
            for state, values in figures.items()
        },
        "threads": cores,
        "hardware": hardware(),
        "date": datetime.date.today().isoformat(),
    }
    write_json(ROOT / "results" / "threads.json", record)
    print(json.dumps(record["ratio"]))
    return 0


def step_seconds(threads: int, spin: str | None) -> float:
    env = {key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    if spin is not None:
        env["GOMP_SPINCOUNT"] = spin
    done = subprocess.run([sys.executable, "-c", STEP, str(threads)], env=env, check=True, capture_output=True, text=True)
    return float(done.stdout)


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    running = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True) for _ in range(processes)
    ]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


if __name__ == "__main__":
    sys.exit(main())
