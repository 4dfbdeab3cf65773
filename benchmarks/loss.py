"""The streamed contrastive loss beside pytorch-metric-learning's SupConLoss and beside its bare matrix products.

    python benchmarks/loss.py                    # 2,048 anchors and 16,384 keys, then 8,192 and 131,072 (ours alone)
    python benchmarks/loss.py --threads 1 --repeats 9

Value and gradients of anchors and keys, float32, 128 dimensions, 10 classes. Times are taken in turns in one process; the
extra memory is the peak of a fresh process beyond what it held with the inputs (Linux). Prints a table and writes
results/loss.json. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from measuring import ROOT, in_fresh_process, in_turns, print_memory, ratio, spread, write_record
from pytorch_metric_learning.losses import SupConLoss
from pytorch_metric_learning.reducers import MeanReducer
from rich.table import Table

from afa_dist.cli.words import say
from afa_dist.losses import afa_loss

DIM, CLASSES, TEMPERATURE = 128, 10, 0.1
SIZES = {"compared": (2048, 16384), "large": (8192, 131072)}

Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def ours(z: torch.Tensor, k: torch.Tensor, y: torch.Tensor, yk: torch.Tensor) -> torch.Tensor:
    return afa_loss(z, k, y, yk, temperature=TEMPERATURE, classes=CLASSES) / len(z)


def ours_attacking(z: torch.Tensor, k: torch.Tensor, y: torch.Tensor, yk: torch.Tensor) -> torch.Tensor:
    return ours(z, k.detach(), y, yk)


def theirs(z: torch.Tensor, k: torch.Tensor, y: torch.Tensor, yk: torch.Tensor) -> torch.Tensor:
    return SupConLoss(temperature=TEMPERATURE, reducer=MeanReducer())(z, y, ref_emb=k, ref_labels=yk)


OURS, ATTACKING, THEIRS = "ours", "ours, anchors' gradient only", "pytorch-metric-learning"
LOSSES = {OURS: ours, ATTACKING: ours_attacking, THEIRS: theirs}


def make_inputs(anchors: int, keys: int) -> Inputs:
    g = torch.Generator().manual_seed(0)
    z = F.normalize(torch.randn(anchors, DIM, generator=g), dim=1)
    k = F.normalize(torch.randn(keys, DIM, generator=g), dim=1)
    y, yk = (torch.randint(0, CLASSES, (count,), generator=g) for count in (anchors, keys))
    return z.requires_grad_(), k.requires_grad_(), y, yk


def backward(loss: Callable[..., torch.Tensor], inputs: Inputs) -> None:
    inputs[0].grad = inputs[1].grad = None
    loss(*inputs).backward()


def bare_products(inputs: Inputs, count: int) -> None:
    """Similarities, then the gradients of the anchors and (count 3) of the keys from a matrix of their size."""
    z, k = inputs[0].detach(), inputs[1].detach()
    similarities = z @ k.T
    _ = similarities @ k
    if count == 3:
        _ = similarities.T @ z


def seconds(repeats: int) -> dict[str, list[float]]:
    inputs = make_inputs(*SIZES["compared"])
    work: dict[str, Callable[[], object]] = {name: lambda f=f: backward(f, inputs) for name, f in LOSSES.items()}
    work["three bare products"] = lambda: bare_products(inputs, 3)
    work["two bare products"] = lambda: bare_products(inputs, 2)
    return in_turns(work, repeats)


def alone(name: str, size: str) -> None:
    tiny, inputs = make_inputs(8, 16), make_inputs(*SIZES[size])
    backward(LOSSES[name], tiny)  # what libraries allocate once
    print_memory(lambda: backward(LOSSES[name], inputs))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    parser.add_argument("--alone", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.alone:
        alone(*options.alone)
        return 0

    def memory(name: str, size: str) -> list[dict[str, float]]:
        return [in_fresh_process(__file__, "--threads", str(options.threads), "--alone", name, size) for _ in range(3)]

    taken = seconds(options.repeats)
    extra = {name: [run["extra_mb"] for run in memory(name, "compared")] for name in LOSSES}
    record: dict[str, Any] = {
        "what": f"value and gradients, float32, {DIM} dimensions, {CLASSES} classes",
        "sizes (anchors, keys)": SIZES,
        "seconds": taken,
        "extra_mb": extra,
        "large": memory(OURS, "large"),
        "ratios": {
            "times faster than pytorch-metric-learning": ratio(taken[THEIRS], taken[OURS]),
            "its memory against ours": ratio(extra[THEIRS], extra[OURS]),
            "time against three bare products": ratio(taken[OURS], taken["three bare products"]),
            "anchors only: time against two bare products": ratio(taken[ATTACKING], taken["two bare products"]),
        },
    }
    show(record)
    write_record(record, options.results, "loss")
    return 0


def show(record: dict[str, Any]) -> None:
    anchors, keys = SIZES["compared"]
    table = Table(f"{anchors} anchors, {keys} keys", "ms, median (min to max)", "extra MB")
    for name, values in record["seconds"].items():
        extra = record["extra_mb"].get(name)
        table.add_row(name, spread(values, 1000), spread(extra) if extra else "")
    say(table)
    for name, value in record["ratios"].items():
        say(f"{name}: {value['median']:.2f} ({value['min']:.2f} to {value['max']:.2f})")
    anchors, keys = SIZES["large"]
    extra, taken = (statistics.median(row[field] for row in record["large"]) for field in ("extra_mb", "seconds"))
    say(f"{anchors} anchors, {keys} keys: {taken:.1f} s, {extra:.0f} MB extra (medians of {len(record['large'])})")


if __name__ == "__main__":
    sys.exit(main())
