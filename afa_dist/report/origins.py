"""What a report shows of training, and where all of it comes from."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence

from afa_dist.report import charts
from afa_dist.report.blocks import Figure, Section
from afa_dist.report.sources import Entry, once
from afa_dist.training.run_dir import RunDirectory


def training(entries: Sequence[Entry]) -> Section:
    """Loss and held-out accuracies of every stage."""
    section = Section("training", "Training", "The checkpoint is chosen on held-out training images, never on test images.")
    for entry in once(entries):
        for title, data in charts.training_curves(entry):
            name = f"{entry.title}: {title}"
            section.figures.append(Figure(name, "Held-out accuracies (left axis) and training loss (right axis).", data))
    return section


def provenance(entries: Sequence[Entry]) -> Section:
    """Where the figures come from, and the commands that repeat them."""
    section = Section("provenance", "Where this comes from", "The commands, versions and settings behind each figure.")
    for entry in entries:
        sources: list[tuple[str, RunDirectory]] = [(stage.title, stage.directory) for stage in entry.stages]
        sources += [("evaluation", entry.evaluation.directory)] if entry.evaluation else []
        sources += [("analysis", entry.analysis.directory)] if entry.analysis else []
        for title, directory in sources:
            section.details.append((f"{entry.title}: {title} ({directory.place})", origin_of(directory)))
    return section


def origin_of(directory: RunDirectory) -> str:
    """The command of a run's last start, what it ran on, and its specification."""
    start = directory.last_start()
    command = shlex.join(["python", *map(str, start.get("command", []))])
    facts = {key: start.get(key) for key in ("started", "seed", "data_fingerprint", "code", "versions", "hardware")}
    return f"{command}\n\n{json.dumps(facts, indent=2)}\n\n{directory.read_text('config.yaml')}"
