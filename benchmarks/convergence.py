"""How fast AFA pre-training converges at several learning rates: the loss and the probe's accuracies over the epochs.

    python benchmarks/convergence.py recipes/cifar10-short.yaml --rates 0.02 0.05 0.1 0.2 0.5 --data-name cifar10-jpeg \\
        -- --data.path FOLDER --schedule.epochs 10

Runs that are finished already are only read. What follows `--` goes to jobs/pretrain.py. Writes
results/<data>/<norm>/convergence.json and .png.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from afa_dist.files import write_json
from afa_dist.report.plots import curves

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.02, 0.05, 0.1, 0.2, 0.5])
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    parser.add_argument("--data-name", help="what to call the data in the record; default: the recipe's data.name")
    words = sys.argv[1:]
    cut = words.index("--") if "--" in words else len(words)
    arguments = parser.parse_args(words[:cut])
    runs = {rate: pretrain(arguments, rate, words[cut + 1 :]) for rate in arguments.rates}
    if None in runs.values():
        return 1
    record = make_record(arguments, {rate: run for rate, run in runs.items() if run is not None})
    base = ROOT / "results" / record["data"] / record["threat"]["norm"] / "convergence"
    base.parent.mkdir(parents=True, exist_ok=True)
    write_json(base.with_suffix(".json"), record)
    draw(record, base.with_suffix(".png"))
    for rate, last in record["last"].items():
        print(
            f"lr {rate}: loss {last['loss']:.3f}, held-out clean {last['clean_acc']:.3f}, robust {last['robust_acc']:.3f}"
        )
    print(f"record: {base.relative_to(ROOT)}.json")
    return 0


def draw(record: dict[str, Any], path: Path) -> None:
    panels = {"loss": record["curves"]["loss"]}
    for name in ("clean", "robust"):
        lines = record["curves"][f"held-out {name}"]
        panels[f"held-out {name} accuracy (%)"] = {
            k: [[epoch, 100 * value] for epoch, value in v] for k, v in lines.items()
        }
    note = f"AFA pre-training, {record['data']} ({record['training_images']} images), eps {record['threat']['eps']:.4g}"
    curves(panels, f"{note}, seed {record['seed']}", path, legend="learning rate")


def pretrain(arguments: argparse.Namespace, rate: float, options: list[str]) -> Path | None:
    """Pre-train at one learning rate; the run directory, or None if that failed."""
    name = f"convergence-{arguments.recipe.stem}/lr{rate:g}"
    command = [sys.executable, ROOT / "jobs/pretrain.py", "--config", arguments.recipe, "--name", name]
    command += ["--runs_dir", arguments.runs_dir, "--optimiser.lr", rate, *options]
    done = subprocess.run([str(part) for part in command], check=False)
    return arguments.runs_dir / name if done.returncode == 0 else None


def make_record(arguments: argparse.Namespace, runs: dict[float, Path]) -> dict[str, Any]:
    """All curves, as [epoch, value] pairs by learning rate, with what is needed to repeat them."""
    found: dict[str, dict[str, list[list[float]]]] = {"loss": {}, "held-out clean": {}, "held-out robust": {}}
    last = {}
    for rate, run in runs.items():
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        training = [row for row in rows if row["phase"] == "train"]
        validation = [row for row in rows if row["phase"] == "validation"]
        key = f"{rate:g}"
        found["loss"][key] = [[row["epoch"], row["loss"]] for row in training]
        found["held-out clean"][key] = [[row["epoch"], row["clean_acc"]] for row in validation]
        found["held-out robust"][key] = [[row["epoch"], row["robust_acc"]] for row in validation]
        last[key] = {"loss": training[-1]["loss"], **{n: validation[-1][n] for n in ("clean_acc", "robust_acc")}}
    first = next(iter(runs.values()))
    config = yaml.safe_load((first / "config.yaml").read_text())
    start = json.loads((first / "provenance.json").read_text())["starts"][-1]
    return {
        "data": arguments.data_name or config["data"]["name"],
        "training_images": limit - config["data"]["held_out"] if (limit := config["data"]["train_limit"]) else "all",
        "threat": {name: config["attack"][name] for name in ("norm", "eps")},
        "seed": config["seed"],
        "recipe": arguments.recipe.name,
        "schedule": config["schedule"],
        "method": config["method"],
        "last": last,
        "curves": found,
        "date": start["started"][:10],
        "versions": start["versions"],
        "code": start["code"],
        "hardware": start["hardware"],
    }


if __name__ == "__main__":
    sys.exit(main())
