"""The record of a grid: every figure with what is needed to judge and repeat it; a table; a plot.

results/<data>/<norm>/<name>.json    the record
results/<data>/<norm>/<name>.md      the table
results/<data>/<norm>/<name>.png     clean against robust accuracy (needs the extra `plots`)
"""

from __future__ import annotations

import datetime
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from afa_dist.files import write_json, write_text


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean and standard deviation over seeds (n - 1 in the denominator; 0 for one value), and the values."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": statistics.fmean(values), "std": deviation, "values": list(values)}


def model_record(folders: Mapping[int, Path], model_name: str, stages: Sequence[str]) -> dict[str, Any]:
    """Accuracies, choice of the checkpoint, epochs and seconds of one model, read from its runs by seed.

    model_name: what the runs' summary.json calls it. stages: those that trained it.
    """
    model = [_json(folder / "summary.json")[model_name] for folder in folders.values()]
    attacks = list(model[0]["accuracies"])
    record: dict[str, Any] = {
        "seeds": list(folders),
        "accuracy": {name: spread([m["accuracies"][name]["accuracy"] for m in model]) for name in attacks},
        "stages": {},
    }
    for stage in stages:
        summaries = [_json(folder / stage / "summary.json") for folder in folders.values()]
        record["stages"][stage] = {
            "steps": [s["steps"] for s in summaries],
            "seconds": spread([s["seconds_of_last_start"] for s in summaries]),
            "held_out_best": [s["best"] for s in summaries],
            "held_out_last": [s["last"] for s in summaries],
        }
    record["evaluation_seconds"] = spread([m["seconds"] for m in model])
    return record


def surroundings(folder: Path) -> dict[str, Any]:
    """Threat model, images, versions and hardware, from one finished pipeline."""
    evaluation = next(iter(_json(folder / "summary.json").values()))
    start = _json(folder / "finetune" / "provenance.json")["starts"][-1]
    return {
        "threat": evaluation["threat"],
        "attacks": evaluation["attacks"],
        "part": yaml.safe_load((folder / "recipe.yaml").read_text())["evaluate"]["part"],
        "images": evaluation["accuracies"]["clean"]["images"],
        "data_fingerprint": start["data_fingerprint"],
        "checkpoint": "best robust accuracy on held-out training images (clean accuracy where no attack is trained on)",
        "date": datetime.date.today().isoformat(),
        "versions": start["versions"],
        "code": start["code"],
        "hardware": start["hardware"],
    }


def markdown(record: Mapping[str, Any]) -> str:
    """The table: mean ± standard deviation over seeds, in per cent, and what each run cost."""
    attacks = ["clean", *record["attacks"]]
    seeds = sorted({len(v["seeds"]) for v in record["variants"].values()})
    columns = ["model", *attacks, "passes an image", "training seconds"]
    lines = [
        f"{record['name']}: {record['data']}, {record['threat']['norm']} eps {record['threat']['eps']:.4g}, "
        f"{record['images']} {record['part']} images, n = {' to '.join(map(str, seeds))}, {record['date']}",
        "",
        "| " + " | ".join(columns) + " |",
        "| --- |" + " ---: |" * (len(columns) - 1),
    ]
    for variant in record["variants"].values():
        cells = [_percent(variant["accuracy"][name], len(variant["seeds"])) for name in attacks]
        seconds = sum(stage["seconds"]["mean"] for stage in variant["stages"].values())
        lines.append(f"| {variant['title']} | " + " | ".join([*cells, str(variant["passes"]), f"{seconds:.0f}"]) + " |")
    if record["missing"]:
        lines += ["", f"Not finished: {', '.join(record['missing'])}."]
    return "\n".join(lines)


def _percent(value: Mapping[str, Any], seeds: int) -> str:
    mean = f"{100 * value['mean']:.1f}"
    return f"{mean} ± {100 * value['std']:.1f}" if seeds > 1 else mean


def write_report(record: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write record, table and plot under `folder`; returns what was written. Without matplotlib there is no plot."""
    base = folder / record["data"] / record["threat"]["norm"] / record["name"]
    base.parent.mkdir(parents=True, exist_ok=True)
    paths = [base.with_name(f"{base.name}.json"), base.with_name(f"{base.name}.md")]
    write_json(paths[0], record)
    write_text(paths[1], markdown(record) + "\n")
    try:
        from afa_dist.report.plots import trade_off
    except ImportError:
        return paths
    paths.append(base.with_name(f"{base.name}.png"))
    trade_off(record, paths[-1])
    return paths


def _json(path: Path) -> Any:
    return json.loads(path.read_text())
