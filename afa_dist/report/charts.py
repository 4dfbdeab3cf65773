"""Charts as what Plotly takes: traces and a layout, plain data. Colours come from the page, which knows light from dark.

A trace's `meta` says which colour: {"colour": n} for the n-th of the palette.
"""

from __future__ import annotations

import graphlib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from afa_dist.report.sources import Entry, Stage

Chart = dict[str, Any]

DASHES = ("solid", "dot", "dash", "dashdot")
MARKERS = ("circle", "diamond", "square", "triangle-up", "x")


def chart(traces: Sequence[Mapping[str, Any]], x: str, y: str, **layout: Any) -> Chart:
    return {
        "data": [dict(trace) for trace in traces],
        "layout": {"xaxis": {"title": {"text": x}}, "yaxis": {"title": {"text": y}}, **layout},
    }


def training_curves(entry: Entry) -> list[tuple[str, Chart]]:
    """For each stage the loss, and accuracies on held-out images, against the epoch."""
    return [(stage.title, _stage_curve(stage)) for stage in entry.stages if stage.rows]


def _stage_curve(stage: Stage) -> Chart:
    def line(phase: str, key: str, name: str, colour: int, axis: str, dash: str) -> dict[str, Any]:
        rows = [row for row in stage.rows if row["phase"] == phase and key in row]
        scale = 100 if key.endswith("_acc") else 1
        return {
            "type": "scatter",
            "mode": "lines" if len(rows) > 1 else "markers",
            "name": name,
            "x": [row["epoch"] for row in rows],
            "y": [_short(scale * row[key]) for row in rows],
            "yaxis": axis,
            "line": {"dash": dash},
            "meta": {"colour": colour},
        }

    traces = [
        line("validation", "clean_acc", "held-out clean", 0, "y", "solid"),
        line("validation", "robust_acc", "held-out robust", 1, "y", "dash"),
        line("train", "loss", "training loss", 2, "y2", "dot"),
    ]
    second = {"title": {"text": "loss"}, "overlaying": "y", "side": "right", "rangemode": "tozero", "showgrid": False}
    shown = [trace for trace in traces if trace["x"]]
    return chart(shown, "epoch", "accuracy, %", yaxis={"title": {"text": "accuracy, %"}, "range": [0, 100]}, yaxis2=second)


def merged(orders: Sequence[Sequence[str]]) -> list[str]:
    """All names in one order that each of `orders` agrees with; where there is none, as they come."""
    before: dict[str, set[str]] = {name: set() for order in orders for name in order}
    for order in orders:
        for first, second in itertools.pairwise(order):
            before[second].add(first)
    try:
        return list(graphlib.TopologicalSorter(before).static_order())
    except graphlib.CycleError:
        return list(before)


def accuracy_dots(entries: Sequence[Entry]) -> Chart | None:
    """Accuracy under each attack, with 95 % intervals."""
    found = [(entry, entry.evaluation.summary) for entry in entries if entry.evaluation]
    order = merged([["clean", *summary["attacks"]] for _, summary in found])
    traces = []
    for entry, summary in found:
        names = ["clean", *summary["attacks"]]
        trace = _with_intervals(entry, names, [summary["accuracies"][name] for name in names])
        # No line across attacks that the model never saw.
        traces.append(trace | {"mode": "lines+markers" if names == order else "markers"})
    x = {"title": {"text": "under this attack and those before it"}, "categoryorder": "array", "categoryarray": order}
    return chart(traces, "", "accuracy, %", xaxis=x, yaxis=_PER_CENT) if traces else None


def robustness_curve(entries: Sequence[Entry]) -> Chart | None:
    """Accuracy against the radius of the ball, with 95 % intervals."""
    found = [
        (entry, entry.analysis.facts["curve"]) for entry in entries if entry.analysis and "curve" in entry.analysis.facts
    ]
    traces = [_with_intervals(entry, [_short(point["eps"]) for point in points], points) for entry, points in found]
    x = "radius of the ball, on the pixel scale [0, 1]"
    return chart(traces, x, "accuracy, %", yaxis=_PER_CENT) if traces else None


_PER_CENT = {"title": {"text": "accuracy, %"}, "range": [0, 102]}


def _with_intervals(entry: Entry, x: Sequence[Any], accuracies: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A line of accuracies, as summaries hold them, with their intervals."""
    high = [100 * (a["interval_95"][1] - a["accuracy"]) for a in accuracies]
    low = [100 * (a["accuracy"] - a["interval_95"][0]) for a in accuracies]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": entry.title,
        "x": list(x),
        "y": _rounded([100 * a["accuracy"] for a in accuracies]),
        "error_y": {"type": "data", "array": _rounded(high), "arrayminus": _rounded(low), "thickness": 1},
        "line": {"dash": DASHES[entry.number % len(DASHES)]},
        "marker": {"size": 9, "symbol": MARKERS[entry.number % len(MARKERS)]},
        "meta": {"colour": entry.number},
    }


def lipschitz_histogram(entries: Sequence[Entry], what: str) -> Chart | None:
    """Distribution of the local Lipschitz constants of `what` (logits or features)."""
    name = f"lipschitz_{what}_N"
    found = [(e, e.analysis.arrays[name].numpy()) for e in entries if e.analysis and name in e.analysis.arrays]
    if not found:
        return None
    top = 1.001 * max(float(values.max()) for _, values in found)
    traces = [
        {
            "type": "histogram",
            "name": entry.title,
            "x": _rounded(values),
            "opacity": 0.65,
            "xbins": {"start": 0, "end": top, "size": top / 40},  # the same for all
            "meta": {"colour": entry.number},
        }
        for entry, values in found
    ]
    return chart(traces, f"local Lipschitz constant of {what}", "images", barmode="overlay")


def corruption_bars(entries: Sequence[Entry]) -> Chart | None:
    """Mean accuracy by family of corruptions."""
    traces = []
    for entry in entries:
        found = entry.analysis.facts.get("corruptions") if entry.analysis else None
        if found:
            names = [*found["means"], "mean"]
            values = [*found["means"].values(), found["mean"]]
            bars = {"type": "bar", "name": entry.title, "x": names, "y": _rounded([100 * v for v in values])}
            traces.append({**bars, "meta": {"colour": entry.number}})
    y = {"title": {"text": "accuracy, %"}, "range": [0, 100]}
    return chart(traces, "", "accuracy, %", barmode="group", yaxis=y) if traces else None


def reliability(entry: Entry) -> Chart | None:
    """Accuracy against confidence, clean and attacked."""
    found = entry.analysis.facts.get("calibration") if entry.analysis else None
    if not found:
        return None
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "calibrated",
            "x": [0, 100],
            "y": [0, 100],
            "line": {"dash": "dot", "width": 1},
            "hoverinfo": "skip",
            "meta": {"colour": 7},
        }
    ]
    for number, (name, curve) in enumerate(found.items()):
        bins = [b for b in curve["bins"] if b["count"]]
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": f"{name}: ECE {100 * curve['ece']:.1f} %",
                "x": _rounded([100 * b["confidence"] for b in bins]),
                "y": _rounded([100 * b["accuracy"] for b in bins]),
                "text": [f"{b['count']} images" for b in bins],
                "marker": {"size": [5 + 20 * (b["count"] / sum(c["count"] for c in bins)) ** 0.5 for b in bins]},
                "meta": {"colour": number},
            }
        )
    return chart(traces, "confidence, %", "accuracy, %")


def embedding(entry: Entry, classes: Sequence[str]) -> Chart | None:
    """Features in two dimensions: circles are clean images, crosses adversarial ones; both maps are in the chart.

    customdata: place of the image on its sheet, 0 for the clean sheet or 1 for the adversarial one, and words.
    """
    arrays = entry.analysis.arrays if entry.analysis else {}
    if "pca_N2" not in arrays:
        return None
    labels = arrays["labels_N"].tolist()
    traces = []
    for sheet, (suffix, predictions, symbol) in enumerate(
        (("N2", "predictions_N", "circle"), ("adv_N2", "adv_predictions_N", "x-thin-open"))
    ):
        told = [classes[p] for p in arrays[predictions].tolist()]
        words = [f"{classes[label]}, taken for {said}" for label, said in zip(labels, told, strict=True)]
        maps = {name: arrays[f"{name}_{suffix}"].numpy() for name in ("tsne", "pca") if f"{name}_{suffix}" in arrays}
        first = maps.get("tsne", maps["pca"])
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": ("clean", "adversarial")[sheet],
                "x": _rounded(first[:, 0]),
                "y": _rounded(first[:, 1]),
                "customdata": [[place, sheet, text] for place, text in enumerate(words)],
                "hoverinfo": "none",
                "marker": {"symbol": symbol, "size": 7, "line": {"width": 1.5}},
                "meta": {
                    "classes": labels,
                    "maps": {name: [_rounded(m[:, 0]), _rounded(m[:, 1])] for name, m in maps.items()},
                },
            }
        )
    bare = {"showticklabels": False, "zeroline": False, "title": {"text": ""}}
    return {"data": traces, "layout": {"xaxis": bare, "yaxis": bare, "hovermode": "closest", "height": 560}}


def confusion(labels_N: np.ndarray, predictions_N: np.ndarray, classes: Sequence[str]) -> Chart:
    """Share of each class's images (rows) that are taken for each class under attack, per cent."""
    counts = np.zeros((len(classes), len(classes)))
    np.add.at(counts, (labels_N, predictions_N), 1)
    share = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    heat = {
        "type": "heatmap",
        "x": list(classes),
        "y": list(classes),
        "z": [_rounded(row) for row in share],
        "colorscale": "Cividis",
        "zmin": 0,
        "zmax": 100,
        "colorbar": {"title": {"text": "%"}},
        "hovertemplate": "%{y} taken for %{x}: %{z:.1f} %<extra></extra>",
    }
    axis = {"type": "category", "title": {"text": "taken for"}}
    rows = {"type": "category", "title": {"text": "class"}, "autorange": "reversed"}
    return {"data": [heat], "layout": {"xaxis": axis, "yaxis": rows, "height": 480}}


def _rounded(values: Any) -> list[float]:
    return [_short(float(value)) for value in values]


def _short(value: float) -> float:
    return float(f"{value:.5g}")
