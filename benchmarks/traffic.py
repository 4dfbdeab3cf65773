"""Bytes that the contrastive loss moves between two processes, beside the cost model of docs/performance.md.

    python benchmarks/traffic.py

Two gloo processes on this machine evaluate the loss and its gradients; the bytes are those that the loopback interface
counts (Linux), less those of as many rounds of an empty synchronisation. Prints a table and writes results/traffic.json.
Nothing else should use the loopback interface meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from measuring import ROOT, write_record
from rich.table import Table

from afa_dist.cli.words import say
from afa_dist.config import MethodConfig
from afa_dist.data.loader import Batch
from afa_dist.distributed import join_group
from afa_dist.files import write_json
from afa_dist.training.contrast import Contrast

RANKS, GLOBAL_BATCH, DIM, CLASSES = 2, 1024, 128, 10
ROUNDS, REPEATS = 20, 5

CASES = {
    "loss, clean keys": MethodConfig(keys="clean"),
    "loss, adversarial keys": MethodConfig(keys="adversarial"),
    "loss, both keys": MethodConfig(keys="both", anchors="both"),
}


def modelled(method: MethodConfig) -> dict[str, int]:
    """Bytes that all ranks together send in one evaluation with gradients: see docs/performance.md.

    gather: every rank sends its rows to each other one. reduce-scatter: every rank sends each other one the gradients of
    that one's rows. Labels are known everywhere.
    """
    kinds = 2 if method.keys == "both" else 1
    sent = (RANKS - 1) * kinds * GLOBAL_BATCH * DIM * 4
    return {"gather": sent, "reduce-scatter": sent}


def worker(rank: int, folder: str) -> None:
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    torch.set_num_threads(1)
    join_group("gloo", rank=rank, world_size=RANKS, store=dist.FileStore(f"{folder}/store", RANKS))
    g = torch.Generator().manual_seed(0)
    z = F.normalize(torch.randn(2, GLOBAL_BATCH, DIM, generator=g), dim=2)
    y = torch.randint(0, CLASSES, (GLOBAL_BATCH,), generator=g)
    share = GLOBAL_BATCH // RANKS
    part = slice(rank * share, (rank + 1) * share)
    batch = Batch(z[0, part], y, part.start)  # only its length counts here

    def evaluate(method: MethodConfig) -> None:
        z_adv, z_clean = (rows[part].clone().requires_grad_() for rows in z)
        Contrast(method, CLASSES).loss(z_adv, z_clean, batch).backward()

    found: dict[str, list[float]] = {name: [] for name in CASES}
    for name, method in CASES.items():
        evaluate(method)  # connections are made
        for _ in range(REPEATS):
            empty = counted(lambda: None)
            found[name].append((counted(lambda m=method: evaluate(m)) - empty) / ROUNDS)
    if rank == 0:
        write_json(Path(folder) / "found.json", found)


def counted(work: Any) -> int:
    """Bytes that the loopback interface sent during ROUNDS rounds of `work`, each ended by a synchronisation."""
    dist.barrier()
    before = loopback_bytes()
    dist.barrier()
    for _ in range(ROUNDS):
        work()
        dist.barrier()
    after = loopback_bytes()
    dist.barrier()
    return after - before


def loopback_bytes() -> int:
    line = next(line for line in Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith("lo:"))
    return int(line.split(":")[1].split()[8])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(worker, args=(folder,), nprocs=RANKS)
        found = json.loads((Path(folder) / "found.json").read_text())
    record = {
        "what": f"bytes sent by {RANKS} gloo processes together, global batch {GLOBAL_BATCH}, {DIM} dimensions, float32",
        "measured": found,
        "modelled": {name: modelled(method) for name, method in CASES.items()},
    }
    table = Table("", "measured, kB (min to max)", "gather + reduce-scatter, kB", "ratio")
    for name, values in found.items():
        expected = sum(record["modelled"][name].values())
        middle = statistics.median(values)
        shown = f"{middle / 1e3:.0f} ({min(values) / 1e3:.0f} to {max(values) / 1e3:.0f})"
        table.add_row(name, shown, f"{expected / 1e3:.0f}", f"{middle / expected:.3f}")
    say(table)
    write_record(record, options.results, "traffic")
    return 0


if __name__ == "__main__":
    sys.exit(main())
