"""How fast sets are prepared, and in how much memory, whatever their size.

    python benchmarks/preparing.py

Everything is made by the script: noise of CIFAR's size as .npz, smooth noise of 256 x 256 pixels as JPEG in Parquet files,
each as a set and as one four times as large. Every preparation runs in a process of its own, in which the most memory that
was resident at once is measured, libraries included. Prints a table and writes results/preparing.json.
"""

from __future__ import annotations

# As the jobs do, before torch and Arrow are imported: it says how threads wait and where memory goes.
import afa_dist.cli  # noqa: F401

# isort: split
import argparse
import io
import json
import shutil
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from measuring import ROOT, in_fresh_process, memory_mb, ratio, spread, write_record
from PIL import Image
from rich.table import Table

from afa_dist.cli.preparing import check
from afa_dist.cli.words import say
from afa_dist.config.preparing import PrepareRun
from afa_dist.runtime.placement import Placement
from afa_dist.runtime.prepare import prepare

THREADS = 2

ROWS = {"npz": 50_000, "parquet": 2_000, "parquet, 12 megapixels": 32}
"""Of the smaller set; the larger one has four times as many."""


def write_npz(path: Path, rows: int) -> None:
    """Noise, 32 x 32 in colour, a part at a time."""
    random = np.random.default_rng(0)
    labels = np.arange(rows) % 10
    with zipfile.ZipFile(path, "w") as archive:
        with archive.open("label.npy", "w", force_zip64=True) as file:
            np.lib.format.write_array(file, labels)
        with archive.open("image.npy", "w", force_zip64=True) as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": (rows, 32, 32, 3)}
            np.lib.format.write_array_header_1_0(file, header)
            for start in range(0, rows, 5000):
                file.write(random.integers(0, 256, (min(5000, rows - start), 32, 32, 3), np.uint8).tobytes())


def write_parquet(folder: Path, rows: int, size: tuple[int, int] = (256, 256), different: int = 500) -> None:
    """Smooth noise as JPEG, a row group at a time; only some images are different ones."""
    folder.mkdir()
    random = np.random.default_rng(0)
    images = []
    for _ in range(different):
        file = io.BytesIO()
        coarse = Image.fromarray(random.integers(0, 256, (size[1] // 8, size[0] // 8, 3), np.uint8))
        coarse.resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=95)
        images.append({"bytes": file.getvalue(), "path": None})
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array(images, kind), "label": pa.array(np.arange(different) % 10)})
    with pq.ParquetWriter(folder / "train-00000.parquet", table.schema) as writer:
        for _ in range(rows // different):
            writer.write_table(table)


def write_large(folder: Path, rows: int) -> None:
    write_parquet(folder, rows, (4000, 3000), 16)


MAKE: dict[str, Callable[[Path, int], None]] = {
    "npz": write_npz,
    "parquet": write_parquet,
    "parquet, 12 megapixels": write_large,
}


def alone(source: str, dest: str) -> None:
    """For a process of its own."""
    run = PrepareRun(source=source, dest=dest, threads=THREADS)
    start = time.perf_counter()
    prepare(check(run), Placement(0, False, THREADS), lambda progress: None)
    print(json.dumps({"seconds": time.perf_counter() - start, "peak_mb": memory_mb("VmHWM")}))


def main() -> None:
    if sys.argv[1:2] == ["--alone"]:
        alone(*sys.argv[2:4])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    options = parser.parse_args()
    found: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sources = {}
        for kind, rows in ROWS.items():
            for times in (1, 4):
                source = folder / f"{kind}-{times}{'.npz' if kind == 'npz' else ''}"
                MAKE[kind](source, times * rows)
                sources[f"{kind}, {times * rows:,} images"] = (source, times * rows)
        for _ in range(options.repeats):
            for label, (source, rows) in sources.items():
                measured = in_fresh_process(__file__, "--alone", str(source), str(folder / "out"))
                shutil.rmtree(folder / "out")
                kept = found.setdefault(label, {"images_per_second": [], "peak_mb": []})
                kept["images_per_second"].append(rows / measured["seconds"])
                kept["peak_mb"].append(measured["peak_mb"])
    shown = Table("", "images/s, median (range)", "most memory, MB")
    for label, values in found.items():
        shown.add_row(label, spread(values["images_per_second"]), spread(values["peak_mb"]))
    say(shown)
    labels = list(found)
    growth = {
        kind: ratio(found[labels[2 * number + 1]]["peak_mb"], found[labels[2 * number]]["peak_mb"])
        for number, kind in enumerate(ROWS)
    }
    for kind, value in growth.items():
        say(
            f"{kind}: four times the images, {value['median']:.3g} ({value['min']:.3g} to {value['max']:.3g}) of the memory"
        )
    record = {"what": f"prepare_data.py in one process, {THREADS} threads", "sets": found, "memory_of_four_times": growth}
    write_record(record, options.results, "preparing")


if __name__ == "__main__":
    main()
