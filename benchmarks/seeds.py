"""A recipe over several seeds: mean and spread, as a record under results/ and a table to paste.

    python benchmarks/seeds.py recipes/digits.yaml --seeds 0 1 2
    python benchmarks/seeds.py recipes/cifar10-short.yaml --seeds 0 1 --data-name cifar10-jpeg -- --data.path FOLDER

Runs that are finished already are only read. What follows `--` goes to jobs/pipeline.py.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    parser.add_argument("--data-name", help="what to call the data in the record; default: the recipe's data.name")
    parser.add_argument(
        "--name", help="of the runs and the record, when options make it another experiment; default: the recipe's"
    )
    # argparse gives an open-ended positional nothing once a flag stood before it, so `--` is taken apart here.
    words = sys.argv[1:]
    cut = words.index("--") if "--" in words else len(words)
    arguments = parser.parse_args(words[:cut])
    arguments.options = words[cut + 1 :]

    name = arguments.name or arguments.recipe.stem
    runs = {seed: run_one(arguments, name, seed) for seed in arguments.seeds}
    if None in runs.values():
        return 1
    record = make_record(arguments, name, runs)
    path = ROOT / "results" / record["data"] / record["threat"]["norm"] / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n")
    print(table(record))
    print(f"record: {path.relative_to(ROOT)}")
    return 0


def run_one(arguments: argparse.Namespace, name: str, seed: int) -> Path | None:
    """Run the pipeline with one seed; its run directory, or None if it failed."""
    run = f"{name}-seed{seed}"
    command = [sys.executable, ROOT / "jobs/pipeline.py", "--config", arguments.recipe, "--name", run, "--seed", seed]
    command += ["--runs_dir", arguments.runs_dir, *arguments.options]
    done = subprocess.run([str(part) for part in command], check=False)
    return arguments.runs_dir / run if done.returncode == 0 else None


def make_record(arguments: argparse.Namespace, name: str, runs: dict[int, Path]) -> dict[str, Any]:
    """Everything a reader needs to judge the figures and to repeat them."""
    summaries = {seed: json.loads((run / "summary.json").read_text()) for seed, run in runs.items()}
    first = runs[arguments.seeds[0]]
    start = json.loads((first / "pretrain/provenance.json").read_text())["starts"][-1]
    config = yaml.safe_load((first / "pretrain/config.yaml").read_text())
    any_summary = next(iter(summaries[arguments.seeds[0]].values()))
    models = {
        model: {
            attack: spread([s[model]["accuracies"][attack]["accuracy"] for s in summaries.values()]) for attack in attacks
        }
        for model, attacks in ((model, any_summary["accuracies"]) for model in summaries[arguments.seeds[0]])
    }
    stages = ("pretrain", "finetune", "baseline")
    seconds = {
        stage: spread(
            [json.loads((run / stage / "summary.json").read_text())["seconds_of_last_start"] for run in runs.values()]
        )
        for stage in stages
    }
    options = [part for part in arguments.options if "/" not in part]  # paths of one machine do not belong in a record
    return {
        "data": arguments.data_name or config["data"]["name"],
        "threat": any_summary["threat"],
        "recipe": arguments.recipe.name,
        "options": options,
        "seeds": arguments.seeds,
        "test_images": any_summary["accuracies"]["clean"]["images"],
        "accuracy": models,
        "seconds": seconds,
        "checkpoint": "best robust accuracy on held-out training images",
        "date": datetime.date.today().isoformat(),
        "versions": start["versions"],
        "code": start["code"],
        "hardware": start["hardware"],
    }


def spread(values: list[float]) -> dict[str, Any]:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": statistics.fmean(values), "std": deviation, "values": values}


def table(record: dict[str, Any]) -> str:
    """The record's accuracies as Markdown: mean ± standard deviation over the seeds, in per cent."""
    attacks = list(next(iter(record["accuracy"].values())))
    lines = ["| model | " + " | ".join(attacks) + " |", "| --- |" + " --- |" * len(attacks)]
    for model, accuracies in record["accuracy"].items():
        cells = [f"{100 * accuracies[a]['mean']:.1f} ± {100 * accuracies[a]['std']:.1f}" for a in attacks]
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
