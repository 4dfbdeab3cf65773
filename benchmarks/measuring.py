"""What the benchmarks share: times taken in turns, memory of a fresh process, ratios within a repeat."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from afa_dist.files import write_json
from afa_dist.training.provenance import provenance

ROOT = Path(__file__).resolve().parents[1]

Work = Callable[[], object]


def in_turns(work: Mapping[str, Work], repeats: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Seconds of every repeat of each candidate, one after the other so that a drift of the machine hits all of them."""
    taken: dict[str, list[float]] = {name: [] for name in work}
    for repeat in range(warm_up + repeats):
        for name, run in work.items():
            start = time.perf_counter()
            run()
            if repeat >= warm_up:
                taken[name].append(time.perf_counter() - start)
    return taken


def ratio(above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest of the ratios within a repeat, to 4 digits."""
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    values = {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
    return {name: float(f"{value:.4g}") for name, value in values.items()}


def in_fresh_process(script: str, *arguments: str, live: bool = False) -> dict[str, float]:
    """What `script` prints as JSON when it runs by itself: for memory, which one process cannot measure twice.

    live: whether freed memory goes back at once, so that a peak is what was needed. Otherwise it holds as well what the
    allocator kept (glibc), which depends on sizes and order and differs by a tenth from run to run.
    """
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"} if live else None
    done = subprocess.run([sys.executable, script, *arguments], check=True, capture_output=True, text=True, env=env)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def print_memory(work: Work) -> None:
    """Run `work` and print, for `in_fresh_process`, the megabytes by which memory peaked above what was held before it
    (Linux), and seconds."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, start = memory_mb("VmRSS"), time.perf_counter()
    work()
    print(json.dumps({"extra_mb": memory_mb("VmHWM") - before, "seconds": time.perf_counter() - start}))


def memory_mb(field: str) -> float:
    """VmRSS (now) or VmHWM (peak) of this process, megabytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024 / 1e6


def write_record(record: Mapping[str, Any], results: Path, name: str, data: str = "drawn by the script") -> None:
    """Write results/NAME.json with where it comes from: versions, code, hardware, date; data: fingerprint of the images."""
    results.mkdir(parents=True, exist_ok=True)
    found = provenance(seed=0, data_fingerprint=data)
    command = list(found["command"])
    if "--results" in command:  # a place of one machine, which says nothing of what was measured
        at = command.index("--results")
        found["command"] = command[:at] + command[at + 2 :]
    write_json(results / f"{name}.json", {**record, **found})


def spread(values: Sequence[float], scale: float = 1.0, digits: int = 0) -> str:
    """Median and range, for a table."""
    middle, low, high = (scale * f(values) for f in (statistics.median, min, max))
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
