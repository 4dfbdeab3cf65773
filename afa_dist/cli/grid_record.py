"""The record of a grid: planned before the work, so that it can be held against what lies there, then with its figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from afa_dist.cli.grid import Cell
from afa_dist.cli.pipeline import models_of, stages_of
from afa_dist.config import AblationConfig
from afa_dist.config.budget import total_passes
from afa_dist.config.fields import to_mapping
from afa_dist.errors import Problem
from afa_dist.report.ablation import compared, model_record, record_path, surroundings
from afa_dist.report.overwriting import figures_lost

SHOWN = 4
"""Differences named in a message."""


def plan_of(name: str, cells: Sequence[Cell], config: AblationConfig) -> dict[str, Any]:
    """What the record of `cells` says of them before there are figures. A cell with a baseline has two models."""
    evaluate = cells[0].run.evaluate
    variants: dict[str, Any] = {}
    for cell in cells:
        for title, stage in models_of(cell.run).items():
            ours = stage == "finetune"
            trained = {s: t for s, t in stages_of(cell.run).items() if (s == "baseline") != ours}
            planned = {
                "title": cell.title if ours else title,
                "passes": sum(total_passes(training) for training in trained.values()),
                "config": {s: _told_apart(to_mapping(training)) for s, training in trained.items()},
                "seeds": [],
            }
            variants.setdefault(cell.variant if ours else f"{cell.variant}-baseline", planned)["seeds"].append(cell.seed)
    return {
        "name": name,
        "data": config.data_label or evaluate.data.name,
        "threat": dataclasses.asdict(evaluate.threat),
        "attacks": list(evaluate.attacks),
        "part": evaluate.part,
        "budget": config.budget,
        "reference": config.reference,
        "variants": variants,
    }


def record_of(name: str, cells: Sequence[Cell], config: AblationConfig, missing: Sequence[str]) -> dict[str, Any]:
    """Everything a reader needs to judge the figures of finished cells, and to repeat them."""
    plan = plan_of(name, cells, config)
    variants = {}
    for key, planned in plan["variants"].items():
        baseline = "baseline" in planned["config"]
        variant = key.removesuffix("-baseline") if baseline else key
        folders = {cell.seed: cell.folder for cell in cells if cell.variant == variant}
        figures = model_record(folders, "baseline" if baseline else "finetune", list(planned["config"]))
        variants[key] = {**planned, **figures}
    return {
        **plan,
        **surroundings([cell.folder for cell in cells]),
        "missing": list(missing),
        "variants": compared(variants, config.reference),
    }


def record_problems(record: Mapping[str, Any], config: AblationConfig) -> Iterator[Problem]:
    """Why the results folder cannot take this record or plan: what lies there is of other runs."""
    path = record_path(record, Path(config.results_dir))
    if lost := figures_lost(path, record):
        shown = "; ".join(lost[:SHOWN]) + ("; ..." if len(lost) > SHOWN else "")
        what = f"{path} holds what this grid would overwrite ({shown}); choose another folder or --name, or move it away"
        yield Problem("ablation.results_dir", what)


def _told_apart(config: dict[str, Any]) -> dict[str, Any]:
    """A stage's options without those that belong to one run or one machine; of scaling, precision is none of these."""
    left_out = ("name", "runs_dir", "seed", "scaling", "checkpoint", "tracking", "init")
    kept = {key: value for key, value in config.items() if key not in left_out}
    kept["precision"] = config["scaling"]["precision"]
    kept["data"] = {key: value for key, value in kept["data"].items() if key not in ("path", "cache", "cache_gib")}
    return kept
