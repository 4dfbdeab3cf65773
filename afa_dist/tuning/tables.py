"""The results of a search as tables: trials.parquet with all of it, front.csv with what nobody beats."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from afa_dist.evaluation.summary import clean_and_last
from afa_dist.files import write_aside, write_text
from afa_dist.tuning.choice import Found
from afa_dist.tuning.parameters import Space
from afa_dist.tuning.record import Trial


def write_trials(path: Path, trials: Sequence[Trial], space: Space, rungs: int) -> None:
    """All trials, one a row: how each ended, what it reached, `param.` columns, accuracies at each rung."""
    columns: dict[str, list[Any]] = {
        "trial": [trial.number for trial in trials],
        "state": [trial.state for trial in trials],
        "reason": [trial.reason for trial in trials],
        "clean_acc": [trial.clean_acc for trial in trials],
        "robust_acc": [trial.robust_acc for trial in trials],
        "seconds": [float(trial.seconds) for trial in trials],
        "wall": [float(trial.wall) for trial in trials],
        "epochs": [float(trial.epochs) for trial in trials],
        "begun": [trial.begun for trial in trials],
        "order": [trial.order for trial in trials],
        "ended_at": [float(trial.ended_at) for trial in trials],
    }
    for rung in range(rungs):
        for place, name in enumerate(("clean_acc", "robust_acc")):
            values = [trial.rungs[rung][place] if rung in trial.rungs else None for trial in trials]
            columns[f"rung{rung}.{name}"] = values
    for key in space:
        columns[f"param.{key}"] = _alike([trial.params.get(key) for trial in trials])
    schema = {name: _type(name, values) for name, values in columns.items()}
    table = pa.table({name: pa.array(values, schema[name]) for name, values in columns.items()})
    write_aside(path, lambda aside: pq.write_table(table, aside))


def write_front(
    path: Path, found: Found, space: Space, tested: Mapping[int, Mapping[str, Any]], commands: Mapping[int, str]
) -> None:
    """The front by ascending clean accuracy; a trial that only meets the requirement comes last.

    tested: summaries of evaluations on test images, by the trial's number.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    measures = ["clean_acc", "clean_low", "clean_high", "robust_acc", "robust_low", "robust_high"]
    head = ["trial", "chosen_as", *space, "held_out_clean_acc", "held_out_robust_acc"]
    writer.writerow([*head, *(f"test_{name}" for name in measures), "test_attacks", "command"])
    for trial in rows_of(found):
        row: list[Any] = [trial.number, " ".join(found.roles(trial)), *(trial.params[key] for key in space)]
        row += [trial.clean_acc, trial.robust_acc]
        summary = tested.get(trial.number)
        writer.writerow(
            [
                *row,
                *(_measures(summary) if summary else [""] * 6),
                summary["label"] if summary else "",
                commands[trial.number],
            ]
        )
    write_text(path, text.getvalue())


def rows_of(found: Found) -> list[Trial]:
    """The front, and the trial that was required if it lies behind it."""
    extra = [found.required] if found.required is not None and found.required not in found.front else []
    return [*found.front, *extra]


def _measures(summary: Mapping[str, Any]) -> list[float]:
    return [value for entry in clean_and_last(summary) for value in (entry["accuracy"], *entry["interval_95"])]


def _alike(values: list[Any]) -> list[Any]:
    """As they are if they are of one kind, else as text."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float}:
        return [None if value is None else float(value) for value in values] if float in kinds else values
    return values if len(kinds) == 1 else [None if value is None else str(value) for value in values]


def _type(name: str, values: list[Any]) -> pa.DataType:
    if name in ("trial", "begun", "order"):
        return pa.int32()
    if name in ("state", "reason"):
        return pa.string()
    if not name.startswith("param."):
        return pa.float64()
    return pa.array(values).type
