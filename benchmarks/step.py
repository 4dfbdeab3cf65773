"""One AFA pre-training step on the CPU: beside the network passes it must make, and beside the usual composition.

    python benchmarks/step.py                                  # ResNet-18, 32x32, batch 128, PGD-10; some 20 minutes
    python benchmarks/step.py --arch small-resnet --batch 32   # quick

ours             attack and outer step of afa_dist, clean keys, as jobs/pretrain.py runs them
bare passes      the same network passes with nothing between them: clean images once, then forward and backward to the
                 pixels for every step of the attack, then forward and backward of both halves to the weights
composition      what is written today: torchattacks' PGD loop on the SupConLoss of pytorch-metric-learning, embeddings of
                 the clean images made once before the loop, then the loss of both halves

Each in float32, as such scripts run on a CPU, and under bfloat16 autocast. Memory is the peak of a fresh process beyond
what it held (Linux, glibc), with freed memory given back at once. Prints a table and writes results/step.json. Run it on
an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measuring import ROOT, in_fresh_process, in_turns, print_memory, ratio, spread, write_record
from pytorch_metric_learning.losses import SupConLoss
from pytorch_metric_learning.reducers import MeanReducer
from rich.table import Table
from subject import EPS, SHAPE, afa_run

from afa_dist.attacks import attack_mode
from afa_dist.cli.words import say
from afa_dist.data.loader import Batch
from afa_dist.distributed import World
from afa_dist.memory import keep_freed_memory
from afa_dist.training import contrast
from afa_dist.training.job import make_step
from afa_dist.training.step import autocast


class Bench:
    """A network with its optimiser and one batch; each method is one step."""

    def __init__(self, options: argparse.Namespace, precision: str) -> None:
        run = afa_run(options.arch, options.batch, options.steps, precision)
        self.run, self.bf16 = run, precision == "bf16"
        self.step = make_step(run, SHAPE, World())
        self.optimiser = torch.optim.SGD(self.step.parameters(), lr=0.01, momentum=0.9)
        g = torch.Generator().manual_seed(0)
        self.x = torch.rand(options.batch, 3, 32, 32, generator=g)
        self.y = torch.arange(options.batch) % 10
        self.batch = Batch(self.x, self.y, 0)
        self.attack_seconds: list[float] = []

    def ours(self) -> None:
        self.step.train_mode()
        start = time.perf_counter()
        x_adv = self.step.attack(self.batch, 0, EPS)
        self.attack_seconds.append(time.perf_counter() - start)
        self.optimiser.zero_grad(set_to_none=True)
        self.step.loss(self.batch, x_adv).loss.backward()
        self.optimiser.step()

    def bare(self) -> None:
        net, x = self.step.net, self.x
        self.step.train_mode()
        with attack_mode(net):
            with torch.no_grad():
                self.embed(x)
            for _ in range(self.run.attack.steps):
                pixels = x.clone().requires_grad_()
                torch.autograd.grad(self.embed(pixels).sum(), pixels)
        self.outer()

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        with autocast(x.device, self.bf16):
            return self.step.net.embed(x)

    def outer(self) -> None:
        """The bare outer step: both halves to the weights."""
        self.step.train_mode()
        self.optimiser.zero_grad(set_to_none=True)
        with autocast(self.x.device, self.bf16):
            out = self.step.net(torch.cat([self.x, self.x]))
        (out.embeddings_BD.sum() + out.probe_logits_BK.sum()).backward()
        self.optimiser.step()

    def composition(self) -> None:
        net, x, y, attack = self.step.net, self.x, self.y, self.run.attack
        supcon = SupConLoss(temperature=self.run.method.temperature, reducer=MeanReducer())
        net.eval()
        with torch.no_grad():
            keys = self.embed(x)
        x_adv = (x + torch.empty_like(x).uniform_(-EPS, EPS)).clamp(0, 1).detach()
        for _ in range(attack.steps):
            x_adv.requires_grad = True
            (gradient,) = torch.autograd.grad(supcon(self.embed(x_adv), y, ref_emb=keys, ref_labels=y), x_adv)
            x_adv = x_adv.detach() + attack.step_size * gradient.sign()
            x_adv = (x + (x_adv - x).clamp(-EPS, EPS)).clamp(0, 1).detach()
        net.train()
        self.optimiser.zero_grad()
        with autocast(x.device, self.bf16):
            out = net(torch.cat([x_adv, x]))
        z_adv, z = out.embeddings_BD.chunk(2)
        probe = torch.nn.functional.cross_entropy(out.probe_logits_BK.chunk(2)[0], y)
        (supcon(z_adv, y, ref_emb=z, ref_labels=y) + probe).backward()
        self.optimiser.step()


def loss_seconds(bench: Bench) -> float:
    """Seconds that one of our steps spends in the loss, gradients included."""
    total, original = 0.0, contrast.afa_loss

    def timed(*args: Any, **kwargs: Any) -> torch.Tensor:
        nonlocal total
        start = time.perf_counter()
        value = original(*args, **kwargs)
        total += time.perf_counter() - start
        return value

    contrast.afa_loss = timed
    try:
        bench.ours()
    finally:
        contrast.afa_loss = original
    return total


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="resnet18")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    parser.add_argument("--alone", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # for all candidates; scripts that do not are slower than shown here
    if options.alone:
        precision, what = options.alone
        bench = Bench(options, precision)
        x, bench.x = bench.x, bench.x[:2]
        bench.outer()  # momentum and what libraries allocate once are there before
        bench.x = x
        print_memory(getattr(bench, what))
        return 0

    record = measure(options)
    show(record)
    write_record(record, options.results, "step")
    return 0


def measure(options: argparse.Namespace) -> dict[str, Any]:
    benches = {precision: Bench(options, precision) for precision in ("fp32", "bf16")}
    work: dict[str, Callable[[], object]] = {}
    for precision, bench in benches.items():
        work |= {f"ours, {precision}": bench.ours, f"bare passes, {precision}": bench.bare}
        work[f"composition, {precision}"] = Bench(options, precision).composition
    taken = in_turns(work, options.repeats)
    flags = [f"--{name}={getattr(options, name)}" for name in ("arch", "batch", "steps", "threads")]
    memory = {
        f"{what}, {precision}": [
            in_fresh_process(__file__, *flags, "--alone", precision, what, live=True)["extra_mb"]
            for _ in range(options.repeats)
        ]
        for precision in benches
        for what in ("ours", "outer")
    }
    ratios = {f"composition against ours, {p}": ratio(taken[f"composition, {p}"], taken[f"ours, {p}"]) for p in benches}
    ratios["composition in fp32 against ours in bf16"] = ratio(taken["composition, fp32"], taken["ours, bf16"])
    for precision, bench in benches.items():
        ours = taken[f"ours, {precision}"]
        ratios[f"ours against bare passes, {precision}"] = ratio(ours, taken[f"bare passes, {precision}"])
        ratios[f"memory against the bare outer step, {precision}"] = ratio(
            memory[f"ours, {precision}"], memory[f"outer, {precision}"]
        )
        ratios[f"share of the attack, {precision}"] = ratio(bench.attack_seconds[-len(ours) :], ours)
        ratios[f"share of the loss, {precision}"] = ratio([loss_seconds(bench) for _ in ours], ours)
    settings = {name: getattr(options, name) for name in ("arch", "batch", "steps", "threads")}
    return {
        "what": "seconds of one AFA pre-training step on 32x32 images",
        "settings": settings,
        "seconds": taken,
        "extra_mb": memory,
        "ratios": ratios,
    }


def show(record: dict[str, Any]) -> None:
    settings = record["settings"]
    title = f"{settings['arch']}, batch {settings['batch']}, PGD-{settings['steps']}, {settings['threads']} threads"
    table = Table(title, "seconds a step, median (min to max)", "images/s")
    for name, values in record["seconds"].items():
        table.add_row(name, spread(values, digits=2), spread([settings["batch"] / value for value in values], digits=1))
    say(table)
    for name, value in record["ratios"].items():
        say(f"{name}: {value['median']:.4g} ({value['min']:.4g} to {value['max']:.4g})")


if __name__ == "__main__":
    sys.exit(main())
