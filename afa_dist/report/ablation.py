"""The record of a grid: every figure with what is needed to judge and repeat it; a table; a plot.

results/<data>/<norm>/<name>.json    the record
results/<data>/<norm>/<name>.md      the table
results/<data>/<norm>/<name>.png     clean against robust accuracy (needs the extra `plots`)
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from afa_dist.files import write_json, write_text


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean and standard deviation over seeds (n - 1 in the denominator; 0 for one value), and the values."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": statistics.fmean(values), "std": deviation, "values": list(values)}


def model_record(folders: Mapping[int, Path], stage: str, stages: Sequence[str]) -> dict[str, Any]:
    """Accuracies, choice of the checkpoint, steps and seconds of one model, read from its runs by seed.

    stage: the one that made the model. stages: those that trained it.
    """
    model = [_json(folder / "evaluate" / stage / "evaluation" / "summary.json") for folder in folders.values()]
    attacks = list(model[0]["accuracies"])
    record: dict[str, Any] = {
        "seeds": list(folders),
        "accuracy": {name: _accuracy([m["accuracies"][name] for m in model]) for name in attacks},
        "stages": {},
    }
    for name in stages:
        summaries = [_json(folder / name / "summary.json") for folder in folders.values()]
        record["stages"][name] = {
            "steps": [s["steps"] for s in summaries],
            "seconds": spread([s["seconds"] for s in summaries]),
            "held_out_best": [s["best"] for s in summaries],
            "held_out_last": [s["last"] for s in summaries],
        }
    record["evaluation_seconds"] = spread([m["seconds"] for m in model])
    record["warnings"] = sorted({warning for m in model for warning in m["warnings"]})
    return record


def _accuracy(measured: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Spread over seeds, and for each seed the 95 % interval that the number of images alone leaves."""
    return {**spread([m["accuracy"] for m in measured]), "interval_95": [m["interval_95"] for m in measured]}


def compared(variants: Mapping[str, dict[str, Any]], reference: str | None) -> dict[str, dict[str, Any]]:
    """The variants, each with its `difference` in accuracy to the one called `reference`, by attack.

    Differences are taken seed by seed, over the seeds that both have finished: what a seed does to both (the order of its
    batches, the start of the same network) does not widen their spread. Without a reference, or before it has runs, there
    are none.
    """
    if reference is None or reference not in variants:
        return dict(variants)
    return {
        name: {**variant, "difference": _difference(variant, variants[reference])} for name, variant in variants.items()
    }


def _difference(variant: Mapping[str, Any], reference: Mapping[str, Any]) -> dict[str, Any]:
    seeds = [seed for seed in variant["seeds"] if seed in reference["seeds"]]
    if variant is reference or not seeds:
        return {}
    pairs = [(variant["seeds"].index(seed), reference["seeds"].index(seed)) for seed in seeds]
    return {
        attack: spread([own["values"][i] - reference["accuracy"][attack]["values"][j] for i, j in pairs])
        for attack, own in variant["accuracy"].items()
    }


def surroundings(folders: Sequence[Path]) -> dict[str, Any]:
    """Images, days, versions, code and hardware of finished pipelines, training and measuring.

    The grid makes sure that images are the same for all. Of versions, code and hardware all that took part are named:
    more than one means that the grid was continued after a change.
    """
    folder = folders[0]
    evaluation = _json(folder / "evaluate" / "finetune" / "evaluation" / "summary.json")
    starts = [
        start for each in folders for path in sorted(each.rglob("provenance.json")) for start in _json(path)["starts"]
    ]
    days = sorted(start["started"][:10] for start in starts)
    return {
        "images": evaluation["accuracies"]["clean"]["images"],
        "data_fingerprint": _json(folder / "finetune" / "summary.json")["data_fingerprint"],
        "checkpoint": "best on held-out training images, by robust accuracy or, where no attack is trained on, by clean; "
        "the last one where none are held out",
        "date": days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}",
        **{name: _distinct([start[name] for start in starts]) for name in ("versions", "code", "hardware")},
    }


def _distinct(values: Sequence[Any]) -> list[Any]:
    return [value for index, value in enumerate(values) if value not in values[:index]]


def markdown(record: Mapping[str, Any]) -> str:
    """The table: mean ± standard deviation over n seeds, in per cent, and what each run cost.

    The deviation is that of training. What the images leave open comes on top; it is said once, at the end.
    """
    attacks = ["clean", *record["attacks"]]
    reference = record["variants"].get(record["reference"])
    versus = dict.fromkeys(("clean", attacks[-1])) if reference else ()
    columns = ["model", "n", *attacks, *(f"{name} vs {reference['title']}" for name in versus)]
    columns += ["passes an image", "training seconds"]
    lines = [
        f"{record['name']}: {record['data']}, {record['threat']['norm']} eps {record['threat']['eps']:.4g}, "
        f"{record['images']} {record['part']} images, {record['date']}",
        "",
        "| " + " | ".join(columns) + " |",
        "| --- |" + " ---: |" * (len(columns) - 1),
    ]
    for variant in record["variants"].values():
        cells = [_percent(variant["accuracy"][name]) for name in attacks]
        difference = variant.get("difference", {})
        cells += [_percent(difference[name], "+") if difference else "" for name in versus]
        seconds = sum(stage["seconds"]["mean"] for stage in variant["stages"].values())
        cells = [variant["title"], str(len(variant["seeds"])), *cells]
        lines.append("| " + " | ".join([*cells, str(variant["passes"]), f"{seconds:.0f}"]) + " |")
    lines += ["", f"± is the standard deviation over n seeds; {_image_error(record)}."]
    lines += _difference_error(record)
    if record["missing"]:
        lines += ["", f"Not finished: {', '.join(record['missing'])}."]
    if len(record["code"]) > 1:
        lines += ["", f"The code changed on the way: {len(record['code'])} versions of it took part (see the record)."]
    for variant in record["variants"].values():
        lines += [f"\nWarning, {variant['title']}: {warning}." for warning in variant["warnings"]]
    return "\n".join(lines)


def _image_error(record: Mapping[str, Any]) -> str:
    """What the number of images leaves open, for the variant where it is most."""
    attack = record["attacks"][-1] if record["attacks"] else "clean"
    widths = [
        high - low for variant in record["variants"].values() for low, high in variant["accuracy"][attack]["interval_95"]
    ]
    open_still = f"{record['images']} images leave ± {50 * max(widths):.1f} more (95 %) in {attack}"
    return f"{open_still}, much of it shared by all rows, which are measured on the same images"


def _difference_error(record: Mapping[str, Any]) -> list[str]:
    """How far the ± of a difference is from an interval that would show one, where there are differences."""
    counts = {len(d["values"]) for variant in record["variants"].values() for d in variant.get("difference", {}).values()}
    from scipy.stats import t  # takes a second to import, and is wanted once, at the end

    factors = {n: t.ppf(0.975, n - 1) / math.sqrt(n) for n in sorted(counts) if n > 1}
    return [
        f"\nOver {n} seeds a 95 % interval of a mean difference is {factor:.1f} times as wide as its ± (t distribution)."
        for n, factor in factors.items()
    ]


def _percent(value: Mapping[str, Any], sign: str = "") -> str:
    mean = f"{100 * value['mean']:{sign}z.1f}"
    return f"{mean} ± {100 * value['std']:.1f}" if len(value["values"]) > 1 else mean


def record_path(record: Mapping[str, Any], folder: Path) -> Path:
    """Where the record goes; table and plot lie beside it."""
    name = Path(record["data"]) / record["threat"]["norm"] / f"{record['name']}.json"
    return folder / name


def write_report(record: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write record, table and plot under `folder`; returns what was written. Without matplotlib there is no plot."""
    base = record_path(record, folder)
    base.parent.mkdir(parents=True, exist_ok=True)
    paths = [base, base.with_suffix(".md")]
    write_json(paths[0], record)
    write_text(paths[1], markdown(record) + "\n")
    try:
        from afa_dist.report.plots import trade_off
    except ImportError:
        return paths
    paths.append(base.with_suffix(".png"))
    trade_off(record, paths[-1])
    return paths


def _json(path: Path) -> Any:
    return json.loads(path.read_text())
