"""The record of a set of generated images, for results/: what drew it, what it was compared with, what a classifier sees.

    python benchmarks/drawn.py runs/digits-edm runs/digits-drawn

The first is the run of generate.py train, the second that of generate.py sample, which generate.py inspect has looked at.
Writes results/<data>/<name>.json and .png, with the code, versions and hardware of the last start that
made the set.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from measuring import ROOT

from afa_dist.cli.words import say
from afa_dist.files import write_aside, write_json
from afa_dist.training.run_dir import RunDirectory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="run directory of generate.py train")
    parser.add_argument("samples", type=Path, help="run directory of generate.py sample")
    parser.add_argument("--name", default="drawn", help="of the record")
    parser.add_argument("--data-name", help="what to call the data; by default the model's data.name")
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    options = parser.parse_args()
    inspection = options.samples / "inspection.json"
    if not (options.model / "summary.json").exists() or not (options.model / "config.yaml").exists():
        parser.error(f"{options.model} is not a finished run of generate.py train")
    if not inspection.exists():
        parser.error(f"{inspection} is missing: run generate.py inspect --samples {options.samples} --classifier ... first")
    record = record_of(options.model, options.samples)
    folder = options.results / (options.data_name or str(record["data"]["name"]))
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{options.name}.json", record)
    write_aside(folder / f"{options.name}.png", lambda aside: shutil.copyfile(options.samples / "samples.png", aside))
    say(f"written: {folder / options.name}.json and .png")


def record_of(model: Path, samples: Path) -> dict[str, Any]:
    """What is known of the set in `samples`, drawn from `model`."""
    ours, theirs = RunDirectory(samples), RunDirectory(model)
    summary, trained = (run.read_json("summary.json") or {} for run in (ours, theirs))
    inspection = json.loads((samples / "inspection.json").read_text())
    inspection.pop("options")
    start = json.loads((samples / "provenance.json").read_text())["starts"][-1]
    data = theirs.read_config()["data"]
    return {
        "data": {name: value for name, value in data.items() if name != "path"},
        "model": {name: trained[name] for name in ("steps", "best", "last", "seconds")},
        "set": summary,
        "inspection": inspection,
        "drawn": {name: value for name, value in start.items() if name != "command"},  # it holds paths of a machine
    }


if __name__ == "__main__":
    main()
