"""How fast images are drawn: beside the bare calls of the network, and by two workers beside one.

    python benchmarks/drawing.py runs/digits-edm

The model is the run of `python jobs/generate.py train --config recipes/digits-edm.yaml`, or any other. Each candidate draws
the same images with one CPU thread a worker, in turns: the job from its specification to Parquet files, in this process,
and as many calls of the network alone, on batches of the same size; then these calls in one and in two processes, which is
what the machine allows (cores may share caches and units); then the job on one and on two workers of Ray. All processes
have run before. Prints a table and writes results/drawing.json. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import multiprocessing
import statistics
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from measuring import ROOT, in_turns, ratio, spread, write_record
from rich.table import Table

from afa_dist.cli.words import say
from afa_dist.config import SampleRun, ScalingConfig
from afa_dist.diffusion.source import open_source
from afa_dist.memory import keep_freed_memory
from afa_dist.runtime.cluster import session
from afa_dist.runtime.image_sets import make_set
from afa_dist.runtime.placement import Placement
from afa_dist.runtime.sampling_checks import PreparedSampling, check

STEPS = 18
"""Of Heun's method, with two calls each but for the last."""


class Drawing:
    """Draws `count` images of `model`, each time into a folder of its own."""

    def __init__(self, model: str, count: int, batch: int, folder: Path) -> None:
        self.model, self.count, self.batch, self.folder = model, count, batch, folder
        self.numbers = itertools.count()
        self.prepared: PreparedSampling = check(self.run(1))

    def run(self, workers: int) -> SampleRun:
        return SampleRun(
            name=f"set-{next(self.numbers)}",
            runs_dir=str(self.folder),
            model=self.model,
            count=self.count,
            steps=STEPS,
            batch_size=self.batch,
            nearest=0,
            data=None,
            scaling=ScalingConfig(workers=workers, device="cpu", threads=1),
        )

    def job(self, placement: Placement) -> None:
        """The whole job, where `placement` says."""
        prepared = dataclasses.replace(self.prepared, run=self.run(placement.workers))
        make_set(prepared, placement, lambda progress: None)

    def bare(self) -> None:
        """The calls of the network that the job makes, and nothing else."""
        call(self.prepared.source.pipeline.unet, self.count, self.batch)


@torch.no_grad()
def call(unet: Any, images: int, batch: int) -> None:
    """Call the network as often as so many images take."""
    size = unet.config.sample_size
    for start in range(0, images, batch):
        count = min(batch, images - start)
        x = torch.randn(count, unet.config.in_channels, *((size, size) if isinstance(size, int) else size))
        labels, noise = torch.zeros(count, dtype=torch.long), torch.zeros(count)
        for _ in range(2 * STEPS - 1):
            unet(x, noise, class_labels=labels)


@functools.cache
def _unet(model: str) -> Any:
    torch.set_num_threads(1)
    keep_freed_memory()
    return open_source(model).pipeline.unet


def call_there(model: str, images: int, batch: int) -> None:
    """The same in a process of a pool."""
    call(_unet(model), images, batch)


def in_processes(model: str, count: int, batch: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of the bare calls, in one process and shared by two."""
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:

        def shared(parts: int) -> None:
            for done in [pool.submit(call_there, model, count // parts, batch) for _ in range(parts)]:
                done.result()

        return in_turns({"bare, 1 process": lambda: shared(1), "bare, 2 processes": lambda: shared(2)}, repeats, warm_up=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="run directory of generate.py train")
    parser.add_argument("--count", type=int, default=1000, help="images drawn each time")
    parser.add_argument("--batch", type=int, default=125, help="images drawn at once")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    options = parser.parse_args()
    if options.count % 2:
        parser.error(f"--count {options.count} cannot be shared by two; give an even number")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        drawing = Drawing(options.model, options.count, options.batch, Path(folder))
        here = Placement(0, False, 1)
        taken = in_turns({"the job": lambda: drawing.job(here), "bare calls": drawing.bare}, options.repeats)
        taken |= in_processes(options.model, options.count, options.batch, options.repeats)
        with session(ScalingConfig(workers=2, device="cpu", threads=1)) as placement:
            places = {count: Placement(count, False, 1, placement.cluster) for count in (1, 2)}
            work = {f"{count} Ray workers": lambda place=place: drawing.job(place) for count, place in places.items()}
            taken |= in_turns(work, options.repeats)
    record = {
        "what": f"seconds to draw {options.count} images, {STEPS} steps, batches of {options.batch}, one thread a worker",
        "network": dict(drawing.prepared.source.pipeline.unet.config.items()),
        "seconds": taken,
        "images_per_second": {name: options.count / statistics.median(times) for name, times in taken.items()},
        "ratio": {
            "job / bare calls": ratio(taken["bare calls"], taken["the job"]),
            "2 workers / 1": ratio(taken["1 Ray workers"], taken["2 Ray workers"]),
            "2 processes / 1, bare": ratio(taken["bare, 1 process"], taken["bare, 2 processes"]),
        },
    }
    record["network"] = {key: value for key, value in record["network"].items() if not key.startswith("_")}
    table = Table("", "images/s, median (range)")
    for name, times in taken.items():
        table.add_row(name, spread([options.count / seconds for seconds in times], digits=1))
    say(table)
    for name, values in record["ratio"].items():
        say(f"{name}: {values['median']:.3f} ({values['min']:.3f} to {values['max']:.3f})")
    write_record(record, options.results, "drawing")


if __name__ == "__main__":
    main()
