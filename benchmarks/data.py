"""How fast images come to a training step, however many there are.

    python benchmarks/data.py

Everything is made by the script: noise of CIFAR's size and photographs' noise as JPEG, prepared by prepare_data.py's code;
a set of 20 million rows is one file under many names. All candidates run in turns on the same machine, in files that the
system has in its cache. Prints a table and writes results/data.json. Run it on an otherwise idle machine.

- The loader of a prepared set against torchvision's CIFAR10 with a DataLoader of two workers, both with random crops and
  flips, and against what a ResNet-18 training step takes on two threads.
- Photographs: batches of a prepared set against bare decoding by Pillow in as many threads: as bytes, and mirrored and made
  to numbers, which takes a part of the same cores.
- 20 million rows: seconds and memory of opening, random batches against those of 50,000 rows, and the first batch of a run
  that goes on at step one million against that of a new one.
"""

from __future__ import annotations

# As the jobs do, before torch and Arrow are imported: it says how threads wait and where memory goes.
import afa_dist.cli  # noqa: F401

# isort: split
import argparse
import dataclasses
import io
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import ROOT, in_fresh_process, in_turns, print_memory, ratio, spread, write_record
from PIL import Image
from rich.table import Table

from afa_dist.cli.words import say
from afa_dist.config import DataConfig, ModelConfig
from afa_dist.data.augment import Augmentation
from afa_dist.data.decode import read_pixels
from afa_dist.data.loader import Loader
from afa_dist.data.open_shards import ShardFile
from afa_dist.data.prepared import SetRecord, SplitRecord, load_prepared, write_labels
from afa_dist.data.set_place import RECORD
from afa_dist.data.shard import write_encoded, write_raw
from afa_dist.distributed import World
from afa_dist.files import sha256, write_json
from afa_dist.memory import keep_freed_memory
from afa_dist.models.build import DataShape, build_backbone

THREADS = 2

BATCH = 128

SHARD = 10_000


def listed(path: Path, rows: int) -> ShardFile:
    return ShardFile(path.name, rows, path.stat().st_size, sha256(path))


def write_record_of(
    folder: Path, files: list[ShardFile], labels: np.ndarray, shape: tuple[int, int, int], storage: str
) -> None:
    """The labels and the record of a set of training images."""
    write_labels(folder / "train-labels.arrow", labels, 10)
    per_class = tuple(np.bincount(labels, minlength=10).tolist())
    part = SplitRecord(len(labels), per_class, listed(folder / "train-labels.arrow", len(labels)), tuple(files))
    record = SetRecord(tuple("0123456789"), "arrow", storage, 3, shape, (0.5,) * 3, (0.25,) * 3, {"train": part})
    write_json(folder / RECORD, record.to_mapping())


def small_set(folder: Path, copies: int) -> np.ndarray:
    """Noise of CIFAR's size: five files of 10,000 rows, or one of them under `copies` names; returns the pixels of five."""
    folder.mkdir()
    x = np.random.default_rng(0).integers(0, 256, (5 * SHARD, 3, 32, 32), np.uint8)
    y = np.arange(SHARD) % 10
    files = []
    for number in range(copies or 5):
        path = folder / f"train-{number:05d}.arrow"
        if number and copies:
            os.link(folder / "train-00000.arrow", path)
            files.append(dataclasses.replace(files[0], name=path.name))
        else:
            write_raw(path, x[number * SHARD : (number + 1) * SHARD], y)
            files.append(listed(path, SHARD))
    write_record_of(folder, files, np.tile(y, len(files)), (3, 32, 32), "raw")
    return x


def photographs(folder: Path, count: int) -> list[bytes]:
    """Smooth noise of 256 x 256 pixels as JPEG."""
    folder.mkdir()
    random = np.random.default_rng(0)
    images = []
    for _ in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8))
        file = io.BytesIO()
        coarse.resize((256, 256), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        images.append(file.getvalue())
    labels = np.arange(count) % 10
    path = folder / "train-00000.arrow"
    write_encoded(path, images, labels)
    write_record_of(folder, [listed(path, count)], labels, (3, 256, 256), "encoded")
    return images


def loader_of(folder: Path, image_size: int = 0, batch: int = BATCH) -> Loader:
    config = DataConfig(name="prepared", path=str(folder), image_size=image_size, crop_padding=4, flip=True)
    data = load_prepared(config, "train")
    return Loader(data, batch, 0, Augmentation(0 if image_size else 4, flip=True), World())


def steps_from(batch: Callable[[int], object], steps: int) -> Callable[[], None]:
    """So many batches, further on each time."""
    numbers = itertools.count()

    def run() -> None:
        for _ in range(steps):
            batch(next(numbers))

    return run


def torchvision_loader(pixels: np.ndarray, steps: int) -> Callable[[], None]:
    """CIFAR10 as torchvision has it, over the same pixels, with its own transforms and two workers."""
    from torchvision import datasets
    from torchvision.transforms import v2

    data: Any = datasets.CIFAR10.__new__(datasets.CIFAR10)
    data.data, data.targets = pixels.transpose(0, 2, 3, 1), [0] * len(pixels)
    data.transform = v2.Compose(
        [v2.ToImage(), v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True)]
    )
    data.target_transform = None
    loader = torch.utils.data.DataLoader(data, BATCH, shuffle=True, num_workers=2, persistent_workers=True)
    batches = itertools.chain.from_iterable(itertools.repeat(loader))

    def run() -> None:
        for _ in range(steps):
            next(batches)

    return run


def training_step() -> Callable[[], None]:
    """Forward and backward pass of a ResNet-18 for CIFAR."""
    net = build_backbone(ModelConfig(arch="resnet18"), DataShape(3, (0.5,) * 3, (0.25,) * 3, tuple("0123456789")))
    x = torch.rand(32, 3, 32, 32)

    def run() -> None:
        net(x).sum().backward()

    return run


def bare_decoding(images: list[bytes], size: int) -> Callable[[], None]:
    def run() -> None:
        with ThreadPoolExecutor(THREADS) as pool:
            for _ in pool.map(lambda data: read_pixels(data, size, colour=True), images):
                pass

    return run


def open_large(folder: str) -> None:
    """For a process of its own: what opening takes."""
    torch.set_num_threads(1)
    print_memory(lambda: loader_of(Path(folder)))


def main() -> None:
    if sys.argv[1:2] == ["--open"]:
        open_large(sys.argv[2])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--rows", type=int, default=20_000_000, help="of the large set")
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    keep_freed_memory()  # as all jobs do
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pixels = small_set(folder / "small", 0)
        small_set(folder / "large", options.rows // SHARD)
        jpegs = photographs(folder / "photographs", 512)
        steps = 300
        small, large = loader_of(folder / "small"), loader_of(folder / "large")
        for each in (small, large):  # opens every file, as the first steps of a run do one by one
            each.data.images_NCHW[torch.arange(0, len(each.data), SHARD)]
        work = {
            "prepared, 50,000 rows": (steps_from(small.batch, steps), steps * BATCH),
            f"prepared, {options.rows:,} rows": (steps_from(large.batch, steps), steps * BATCH),
            "torchvision, 2 workers": (torchvision_loader(pixels, steps // 10), steps // 10 * BATCH),
            "ResNet-18 step": (training_step(), 32),
            "photographs, prepared": (steps_from(loader_of(folder / "photographs", 224, 64).batch, 16), 16 * 64),
            # As they go to a GPU, where they are mirrored and become numbers.
            "photographs, prepared, as bytes": (
                steps_from(loader_of(folder / "photographs", 224, 64)._fetch, 16),
                16 * 64,
            ),
            "photographs, bare": (bare_decoding(jpegs * 2, 224), 1024),
        }
        taken = in_turns({label: run for label, (run, _) in work.items()}, options.repeats)
        first = first_batches(folder / "large", options.repeats)
        opening = in_fresh_process(__file__, "--open", str(folder / "large"))
    rates = {label: [work[label][1] / seconds for seconds in times] for label, times in taken.items()}
    shown = Table("", "images/s, median (range)")
    for label, values in rates.items():
        shown.add_row(label, spread(values))
    say(shown)
    names = list(work)
    record = {
        "what": f"images/s of batches of {BATCH}, {THREADS} threads",
        "images_per_second": rates,
        "ratio": {
            "prepared / ResNet-18 step": ratio(rates[names[0]], rates[names[3]]),
            "prepared / torchvision": ratio(rates[names[0]], rates[names[2]]),
            "large / small": ratio(rates[names[1]], rates[names[0]]),
            "photographs: prepared / bare": ratio(rates[names[4]], rates[names[6]]),
            "photographs: prepared, as bytes / bare": ratio(rates[names[5]], rates[names[6]]),
            "first batch: step 1,000,000 / step 0": ratio(first["1,000,000"], first["0"]),
        },
        "first_batch_seconds": first,
        "opening": opening,
        "rows": options.rows,
    }
    for label, value in record["ratio"].items():
        say(f"{label}: {value['median']:.3g} ({value['min']:.3g} to {value['max']:.3g})")
    say(f"opening {options.rows:,} rows: {opening['seconds']:.2f} s, {opening['extra_mb']:.0f} MB")
    write_record(record, options.results, "data")


def first_batches(folder: Path, repeats: int) -> dict[str, list[float]]:
    """Seconds from opening the set to the first batch, of a new run and of one that goes on."""
    found: dict[str, list[float]] = {"0": [], "1,000,000": []}
    for _ in range(repeats + 1):
        for label, times in found.items():
            start = time.perf_counter()
            loader_of(folder).batch(int(label.replace(",", "")))
            times.append(time.perf_counter() - start)
    return {label: times[1:] for label, times in found.items()}


if __name__ == "__main__":
    main()
