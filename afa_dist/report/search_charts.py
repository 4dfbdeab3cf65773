"""Charts of a search, as what Plotly takes (see `charts`)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from afa_dist.evaluation.summary import accuracy, clean_and_last
from afa_dist.report.charts import Chart, chart
from afa_dist.tuning.choice import Found
from afa_dist.tuning.front import Point, hypervolume
from afa_dist.tuning.parameters import Choice, Parameter, Space, tell
from afa_dist.tuning.record import PRUNED, Trial, finished, point_of

FEWEST = 6
"""Finished trials below which importance and contours would be made of noise."""

_CLEAN, _ROBUST = "clean accuracy, %", "robust accuracy, %"


def words_of(trial: Trial) -> str:
    """What is shown at the pointer."""
    lines = [f"trial {trial.name}", *(f"{key} {tell(value)}" for key, value in trial.params.items())]
    return "<br>".join(line.replace("<", "&lt;") for line in lines)


def front_chart(trials: Sequence[Trial], found: Found, tested: Mapping[int, Mapping[str, Any]], held_out: int) -> Chart:
    """Clean against robust accuracy: the front, what it dominates, where pruned trials ended, and test accuracies; both
    kinds of points of the front with 95 % intervals.

    held_out: images of the front's own accuracies.
    """
    front = list(found.front)
    behind = [trial for trial in finished(trials) if trial not in front]
    pruned = [trial for trial in trials if trial.state == PRUNED and trial.rungs]
    own = [tuple(accuracy(round(share * held_out), held_out) for share in point_of(trial)) for trial in front]
    traces = [
        _dots("pruned, when they ended", pruned, [trial.rungs[max(trial.rungs)] for trial in pruned], 7, "x-thin-open"),
        _dots("dominated, held-out", behind, [point_of(trial) for trial in behind], 3, "circle-open"),
        {**_dots("front, held-out", front, [point_of(trial) for trial in front], 0, "circle"), "mode": "lines+markers"},
    ]
    traces[-1] |= _intervals(own)
    shown = [trial for trial in trials if trial.number in tested]
    if shown:
        entries = [clean_and_last(tested[trial.number]) for trial in shown]
        points = [(clean["accuracy"], robust["accuracy"]) for clean, robust in entries]
        label = tested[shown[0].number]["label"]
        traces.append(_dots(f"front, test images: {label}", shown, points, 1, "diamond") | _intervals(entries))
    return chart([trace for trace in traces if trace["x"]], _CLEAN, _ROBUST, hovermode="closest")


def _intervals(pairs: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Error bars of pairs of accuracies, as summaries hold them."""
    bars = {}
    for axis, place in (("error_x", 0), ("error_y", 1)):
        high = [100 * (pair[place]["interval_95"][1] - pair[place]["accuracy"]) for pair in pairs]
        low = [100 * (pair[place]["accuracy"] - pair[place]["interval_95"][0]) for pair in pairs]
        bars[axis] = {"type": "data", "array": _round(high), "arrayminus": _round(low), "thickness": 0.8, "width": 2}
    return bars


def hypervolume_chart(trials: Sequence[Trial]) -> Chart:
    """How the area below the front grew while the search went on."""
    times, areas, points = [0.0], [0.0], []
    for trial in finished(trials):
        points.append(point_of(trial))
        times.append(round(trial.ended_at / 60, 3))
        areas.append(round(hypervolume(points), 5))
    line = {"type": "scatter", "mode": "lines+markers", "name": "hypervolume", "x": times, "y": areas}
    return chart(
        [{**line, "line": {"shape": "hv"}, "meta": {"colour": 0}}], "minutes of searching", "hypervolume, 1 = perfect"
    )


def coordinates_chart(trials: Sequence[Trial], space: Space, found: Found) -> Chart:
    """Each finished trial as a line through its options and accuracies; the front stands out."""
    done = finished(trials)
    axes = [*space, "clean accuracy", "robust accuracy"]
    scaled = [_scaled([trial.params[key] for trial in done], space[key]) for key in space]
    scaled += [_scaled([getattr(trial, name) for trial in done], None) for name in ("clean_acc", "robust_acc")]
    traces = []
    for number, trial in sorted(enumerate(done), key=lambda pair: pair[1] in found.front):
        front = trial in found.front
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": f"trial {trial.name}",
                "x": axes,
                "y": [round(values[number], 4) for values in scaled],
                "text": [tell(trial.params[key]) for key in space] + [f"{100 * value:.1f} %" for value in point_of(trial)],
                "hovertemplate": "%{x}: %{text}",
                "opacity": 1.0 if front else 0.35,
                "line": {"width": 2.5 if front else 1},
                "marker": {"size": 6 if front else 4},
                "showlegend": False,
                "meta": {"colour": 0 if front else 3},
            }
        )
    ticks = {"tickvals": [0, 1], "ticktext": ["lowest", "highest"], "title": {"text": ""}}
    return chart(traces, "", "", yaxis=ticks, hovermode="closest")


def importance_chart(importance: Mapping[str, Mapping[str, float]]) -> Chart:
    """How much of the differences between trials each option explains."""
    traces = []
    for number, (name, shares) in enumerate(importance.items()):
        keys = sorted(shares, key=lambda key: shares[key])
        bars = {"type": "bar", "orientation": "h", "name": name, "x": [round(shares[key], 4) for key in keys], "y": keys}
        traces.append({**bars, "meta": {"colour": number}})
    return chart(traces, "share of the variance explained (fANOVA)", "", barmode="group")


def contour_chart(trials: Sequence[Trial], space: Space, pair: tuple[str, str], measure: str) -> Chart | None:
    """One accuracy over two options, interpolated between finished trials; None where they lie on a line."""
    from scipy.interpolate import griddata
    from scipy.spatial import QhullError

    done = finished(trials)
    xs, ys = (np.array([_number(trial.params[key]) for trial in done]) for key in pair)
    values = np.array([100 * getattr(trial, measure) for trial in done])
    logs = [getattr(space[key], "log", False) for key in pair]
    u, v = (np.log(values_) if log else values_ for values_, log in zip((xs, ys), logs, strict=True))
    if np.ptp(u) == 0 or np.ptp(v) == 0:
        return None
    u, v = ((w - w.min()) / np.ptp(w) for w in (u, v))
    grid = np.linspace(0, 1, 40)
    try:
        field = griddata((u, v), values, tuple(np.meshgrid(grid, grid)), method="linear")
    except QhullError:
        return None
    spans = [
        np.geomspace(w.min(), w.max(), 40) if log else np.linspace(w.min(), w.max(), 40)
        for w, log in zip((xs, ys), logs, strict=True)
    ]
    surface = {
        "type": "contour",
        "x": [float(f"{x:.4g}") for x in spans[0]],
        "y": [float(f"{y:.4g}") for y in spans[1]],
        "z": [[None if math.isnan(value) else round(float(value), 2) for value in row] for row in field],
        "colorscale": "Cividis",
        "colorbar": {"title": {"text": "%"}, "thickness": 12},
        "hovertemplate": "%{x:.3g}, %{y:.3g}: %{z:.1f} %<extra></extra>",
        "showlegend": False,
    }
    dots = {
        **{"type": "scatter", "mode": "markers", "name": "trials", "x": xs.tolist(), "y": ys.tolist()},
        **{"text": [words_of(trial) for trial in done], "hoverinfo": "text", "marker": {"size": 7, "line": {"width": 1}}},
        "meta": {"colour": 1},
    }
    axes = {
        f"{axis}axis": {"title": {"text": key}, "type": "log" if log else "linear"}
        for axis, key, log in zip("xy", pair, logs, strict=True)
    }
    return chart([surface, dots], "", "", hovermode="closest", **axes)


def _dots(name: str, trials: Sequence[Trial], points: Sequence[Point], colour: int, symbol: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": _round([100 * clean for clean, _ in points]),
        "y": _round([100 * robust for _, robust in points]),
        "text": [words_of(trial) for trial in trials],
        "hovertemplate": "%{text}<br>clean %{x:.1f} %, robust %{y:.1f} %<extra></extra>",
        "marker": {"size": 9, "symbol": symbol},
        "meta": {"colour": colour},
    }


def _number(value: Any) -> float:
    return float(value)


def _scaled(values: Sequence[Any], parameter: Parameter | None) -> list[float]:
    """0 to 1: by the order of a choice's values, or by the range of numbers."""
    if isinstance(parameter, Choice):
        places = [float(parameter.values.index(value)) for value in values]
        return [place / max(1, len(parameter.values) - 1) for place in places]
    numbers = [math.log(value) if parameter is not None and parameter.log else float(value) for value in values]
    low, high = min(numbers), max(numbers)
    return [0.5 if high == low else (number - low) / (high - low) for number in numbers]


def _round(values: Sequence[float]) -> list[float]:
    return [round(value, 2) for value in values]
