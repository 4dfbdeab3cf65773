"""How much faster more workers make a training step: the same global batch on 1, 2 and 4 gloo processes of one thread each.

    python benchmarks/scaling.py                                             # ResNet-18, batch 128, PGD-10
    python benchmarks/scaling.py --arch small-resnet --workers 1 2 --repeats 2

AFA pre-training with clean keys, DDP as jobs/pretrain.py wraps it. A machine with fewer cores than workers shows what
crowding costs, no more. Prints a table and writes results/scaling.json. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from measuring import ROOT, ratio, spread, write_record
from rich.table import Table
from subject import EPS, SHAPE, afa_run

from afa_dist.cli.words import say
from afa_dist.data.loader import Batch
from afa_dist.distributed import World, join_group
from afa_dist.memory import keep_freed_memory
from afa_dist.training.job import make_step, wrap


def worker(rank: int, size: int, folder: str, options: argparse.Namespace) -> None:
    """Time steps of one world; the slowest worker counts, since all wait for it."""
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    torch.set_num_threads(1)
    keep_freed_memory()
    join_group("gloo", rank=rank, world_size=size, store=dist.FileStore(f"{folder}/store", size))
    run = afa_run(options.arch, options.batch, options.steps, options.precision)
    world = World.current()
    step = make_step(run, SHAPE, World())
    if size > 1:
        step.forward = wrap(step.forward, world)
    optimiser = torch.optim.SGD(step.parameters(), lr=0.01, momentum=0.9)
    share = options.batch // size
    x = torch.rand(options.batch, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    batch = Batch(x[rank * share : (rank + 1) * share], torch.arange(options.batch) % 10, rank * share)
    parts: list[list[float]] = []
    for _ in range(2):  # the first one warms up
        dist.barrier()
        times = [time.perf_counter()]
        step.train_mode()
        x_adv = step.attack(batch, 0, EPS)
        times.append(time.perf_counter())
        optimiser.zero_grad(set_to_none=True)
        step.loss(batch, x_adv).loss.backward()
        optimiser.step()
        dist.barrier()
        times.append(time.perf_counter())
        parts.append([times[1] - times[0], times[2] - times[1]])
    if rank == 0:
        Path(folder, "parts.json").write_text(json.dumps(parts[-1]))


def step_seconds(size: int, options: argparse.Namespace) -> tuple[float, float]:
    """Seconds of the attack and of the rest of a step, in fresh processes."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(worker, args=(size, folder, options), nprocs=size)
        attack, rest = json.loads(Path(folder, "parts.json").read_text())
    return attack, rest


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="resnet18")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    options = parser.parse_args()
    measured: dict[int, list[tuple[float, float]]] = {size: [] for size in options.workers}
    for _ in range(options.repeats):
        for size in options.workers:
            measured[size].append(step_seconds(size, options))
    totals = {size: [sum(parts) for parts in values] for size, values in measured.items()}
    first = options.workers[0]
    record: dict[str, Any] = {
        "what": "seconds of one AFA pre-training step on 32x32 images, the same global batch; workers of one thread",
        "settings": {name: getattr(options, name) for name in ("arch", "batch", "steps", "precision")},
        "seconds (attack, rest)": measured,
        f"times faster than {first}": {size: ratio(totals[first], totals[size]) for size in options.workers},
    }
    table = Table("workers", "seconds a step, median (min to max)", "of it attack", f"times faster than {first}")
    for size, values in totals.items():
        faster = record[f"times faster than {first}"][size]
        attack = statistics.median(parts[0] for parts in measured[size])
        row = f"{faster['median']:.2f} ({faster['min']:.2f} to {faster['max']:.2f})"
        table.add_row(str(size), spread(values, digits=2), f"{attack:.2f}", row)
    say(table)
    write_record(record, options.results, "scaling")
    return 0


if __name__ == "__main__":
    sys.exit(main())
