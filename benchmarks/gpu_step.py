"""Throughput of an AFA pre-training step on a GPU: how the network is run, and in which arithmetic."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from gpu_measuring import arithmetic, attempt, timed
from subject import EPS, SHAPE, afa_run

from afa_dist.config import PretrainRun
from afa_dist.data.loader import Batch
from afa_dist.distributed import World
from afa_dist.training.job import make_step
from afa_dist.training.optimiser import build_optimiser

WAYS = ("eager", "compiled", "graphs")


def throughput(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Images a second of whole steps (attack, loss, backward, optimiser), and of the attack alone."""
    arch, batch, steps = ("small-resnet", 16, 2) if options.tiny else ("resnet18", 512, 10)
    found: dict[str, Any] = {"arch": arch, "batch": batch, "attack_steps": steps}
    for name in ("fp32", "tf32", "bf16"):
        for way in WAYS:
            precision = "bf16" if name == "bf16" else "fp32"
            run = afa_run(arch, batch, steps, precision, width=8 if options.tiny else 0)
            found[f"{way}, {name}"] = attempt(lambda r=run, w=way, n=name: _measure(r, w, n, device, options.tiny))
    return found


def _measure(run: PretrainRun, way: str, name: str, device: torch.device, tiny: bool) -> dict[str, Any]:
    step = make_step(run, SHAPE, World(device=device))
    if way != "eager":
        torch._dynamo.reset()
        # The compiler's own code generation takes longer on a CPU than the whole tiny run may.
        how: dict[str, Any] = {"backend": "aot_eager"} if tiny else {}
        if way == "graphs" and not tiny:
            how["mode"] = "reduce-overhead"
        step.net.encoder.compile(dynamic=False, **how)
    optimiser = build_optimiser(list(step.net.named_parameters()), run.optimiser)
    count = run.schedule.batch_size
    x = torch.rand(count, 3, 32, 32, device=device)
    batch = Batch(x, torch.arange(count, device=device) % 10, 0)

    def attack() -> torch.Tensor:
        step.train_mode()
        return step.attack(batch, 0, EPS)

    def whole() -> None:
        x_adv = attack()
        optimiser.zero_grad(set_to_none=True)
        step.loss(batch, x_adv).loss.backward()
        optimiser.step()

    with arithmetic(name):
        return {
            "step": _with_rate(timed, whole, device, count, repeats=2 if tiny else 5),
            "attack": _with_rate(timed, attack, device, count, repeats=2 if tiny else 5),
        }


def _with_rate(
    measure: Callable[..., dict[str, float]], work: Callable[[], object], device: torch.device, images: int, repeats: int
) -> dict[str, float]:
    found = measure(work, device, repeats=repeats, warm_up=1 if repeats < 5 else 3)
    return {**found, "images_a_second": round(1000 * images / found["ms"], 1)}
