"""AutoAttack's standard version by jobs/evaluate.py's evaluator, against the package pyautoattack alone: answers and time.

    python benchmarks/autoattack.py                                  # a small network on 500 digits; about an hour
    python benchmarks/autoattack.py --model runs/x/finetune --images 200 --eps 8/255

The same images and network, one thread a process: pyautoattack's own `run_standard_evaluation`; our evaluator in one
process with shards of the default size, and with four shards; four shards on two Ray workers (Ray is up before the time is
taken, its start is told beside it). Each in a fresh process, in turns, with another seed each time. Prints a table and
writes results/autoattack.json. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from measuring import ROOT, ratio, spread, write_record
from rich.table import Table

from afa_dist.attacks import Ball
from afa_dist.cli.words import say
from afa_dist.config import (
    ClassifierAttackConfig,
    DataConfig,
    EvaluateRun,
    FinetuneRun,
    ModelConfig,
    OptimiserConfig,
    ScalingConfig,
    ScheduleConfig,
    ThreatConfig,
    TrackingConfig,
    ValidationConfig,
)
from afa_dist.config.fields import radius
from afa_dist.data.catalogue import load_part, load_splits
from afa_dist.data.image_set import ImageSet, choose_rows
from afa_dist.distributed import World
from afa_dist.evaluation.subject import load_subject
from afa_dist.runtime.cluster import session
from afa_dist.runtime.evaluate import evaluate
from afa_dist.runtime.evaluation_checks import Prepared
from afa_dist.training.job import train
from afa_dist.training.run_dir import RunDirectory

SHARDS = 4
DEFAULT = 500
BATCH = 250
"""AutoAttack's default."""


def train_digits(folder: Path, width: int) -> Path:
    """A small classifier with some robustness."""
    run = FinetuneRun(
        mode="full",
        model=ModelConfig(width=width),
        attack=ClassifierAttackConfig(eps=0.2, steps=5, step_size=0.1, warmup=0.3),
        optimiser=OptimiserConfig(lr=0.1),
        schedule=ScheduleConfig(epochs=12, batch_size=64, warmup=0.1),
        validation=ValidationConfig(every_epochs=12, steps=2),
        tracking=TrackingConfig(tensorboard=False),
    )
    directory = RunDirectory(folder / "digits")
    directory.create(run, {})
    train(run, load_splits(DataConfig()), directory, World(), on_row=lambda row: None)
    return directory.path


def images_of(model: str, count: int) -> ImageSet:
    """The first `count` images to measure on: of the digits, the test images and as many held-out ones as it takes."""
    config = load_subject(model).config
    data = DataConfig(**config["data"])
    test = load_part(data, "test")
    if count > len(test) and data.name == "digits":
        more = load_part(data, "held_out")
        test = ImageSet(
            torch.cat([test.images_NCHW, more.images_NCHW]), torch.cat([test.labels_N, more.labels_N]), test.classes
        )
    return test.subset(choose_rows(test.labels_N.numpy(), count))


def by_the_package(options: argparse.Namespace) -> dict[str, Any]:
    from pyautoattack import AutoAttack

    test = images_of(options.model, options.images)
    net = load_subject(options.model).net
    x, y = test.images_NCHW.float() / 255, test.labels_N
    began = time.perf_counter()
    with torch.no_grad():
        clean = int((net(x).argmax(1) == y).sum())
    whole = AutoAttack(net, norm="Linf", eps=options.eps, version="standard", seed=options.seed)
    x_adv, _ = whole.run_standard_evaluation(x, y, batch_size=BATCH)
    seconds = time.perf_counter() - began
    with torch.no_grad():
        right = net(x_adv).argmax(1) == y
    inside = Ball("linf", options.eps).distance(x_adv, x) <= options.eps + 1e-5
    return {"seconds": seconds, "clean": clean, "right": int((right | ~inside).sum()), "images": len(y)}


def by_ours(options: argparse.Namespace, workers: int, shards: int) -> dict[str, Any]:
    test = images_of(options.model, options.images)
    prepared = Prepared(load_subject(options.model), test)
    with tempfile.TemporaryDirectory() as folder:
        run = EvaluateRun(
            runs_dir=folder,
            model=options.model,
            threat=ThreatConfig(eps=options.eps),
            attacks=("autoattack",),
            seed=options.seed,
            shard_size=-(-len(test) // shards),
            batch_size=BATCH,
            scaling=ScalingConfig(workers=workers, threads=1, device="cpu"),
        )
        start = time.perf_counter()
        with session(run.scaling) as placement:
            began = time.perf_counter()
            summary = evaluate(run, prepared, placement, lambda progress: None)
            seconds = time.perf_counter() - began
    found = summary["accuracies"]
    numbers = {"seconds": seconds, "clean": found["clean"]["right"], "right": found["autoattack"]["right"]}
    return {**numbers, "images": len(test), "ray_seconds": began - start}


CANDIDATES = {
    "pyautoattack alone": by_the_package,
    "1 process": lambda options: by_ours(options, 0, -(-options.images // DEFAULT)),
    "1 process, 4 shards": lambda options: by_ours(options, 0, SHARDS),
    "2 processes, 4 shards": lambda options: by_ours(options, 2, SHARDS),
}


def measure(options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Each candidate in a process of its own, in turns."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in CANDIDATES}
    for repeat in range(options.repeats):
        for name in CANDIDATES:
            command = [sys.executable, __file__, "--one", name, "--model", options.model]
            command += ["--images", str(options.images), "--eps", str(options.eps), "--seed", str(repeat)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
            say(f"{name}: {found[name][-1]}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="", help="run directory of a fine-tuning run; a small one is trained if empty")
    parser.add_argument("--width", type=int, default=12, help="of the small one")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--eps", type=radius, default=0.1)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    parser.add_argument("--one", choices=list(CANDIDATES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.one:
        print(json.dumps(CANDIDATES[options.one](options)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        named = options.model
        options.model = named or str(train_digits(Path(folder), options.width))
        found = measure(options)
        data = images_of(options.model, options.images).fingerprint()
    write_record(_record(named or "small digits network", options, found), options.results, "autoattack", data)
    return 0


def _record(model: str, options: argparse.Namespace, found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    seconds = {name: [run["seconds"] for run in runs] for name, runs in found.items()}
    alone, one, cut, two = seconds.values()
    ratios = {"pyautoattack / 1 process": ratio(alone, one), "1 process / 2 processes, 4 shards": ratio(cut, two)}
    title = f"{options.images} images, eps {options.eps:g}"
    table = Table("AutoAttack, standard", "seconds", "clean", "robust", title=title)
    for name, runs in found.items():
        right = " ".join(str(run["right"]) for run in runs)  # one a seed
        table.add_row(name, spread(seconds[name]), str(runs[0]["clean"]), right)
    say(table)
    for name, value in ratios.items():
        say(f"{name}: {value['median']} ({value['min']} to {value['max']})")
    start = statistics.median(run["ray_seconds"] for run in found["2 processes, 4 shards"])
    say(f"Ray's start beside it: {start:.1f} s")
    return {"model": model, "eps": options.eps, "images": options.images, "runs": found, "ratios": ratios}


if __name__ == "__main__":
    sys.exit(main())
