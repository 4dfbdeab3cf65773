"""The page about a search: its front, how it came about, and what the options did."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from afa_dist.config.fields import pixels
from afa_dist.config.tune import TuneRun
from afa_dist.evaluation.summary import clean_and_last
from afa_dist.report import search_charts as charts
from afa_dist.report.blocks import Cell, Figure, Section, Table, accuracy_cell, number_cell
from afa_dist.report.origins import origin_of
from afa_dist.report.page import write_page
from afa_dist.training.run_dir import RunDirectory
from afa_dist.tuning.choice import Found
from afa_dist.tuning.parameters import Range, tell
from afa_dist.tuning.record import Trial, finished
from afa_dist.tuning.sampling import as_optuna
from afa_dist.tuning.search import Search
from afa_dist.tuning.tables import rows_of


@dataclasses.dataclass(frozen=True)
class SearchFacts:
    """tested: summaries of evaluations on test images, commands: that train a trial at full length, by trials' numbers.
    held_out: images that trials were compared on.
    """

    run: TuneRun
    search: Search
    found: Found
    tested: Mapping[int, Mapping[str, Any]]
    commands: Mapping[int, str]
    directory: RunDirectory
    held_out: int


def write_search_report(facts: SearchFacts, path: Path) -> None:
    """Write the page.

    Raises:
        UserError: the packages for it are missing.
    """
    sections = [_front(facts), _course(facts), _options(facts), _trials(facts), _provenance(facts)]
    write_page(path, f"Search {facts.run.name}", sections)


def _front(facts: SearchFacts) -> Section:
    threat = facts.run.evaluate.threat
    section = Section(
        "front",
        "Front",
        f"Trials that no other one beats in both accuracies, measured in {threat.norm} eps {pixels(threat.eps)}. They were "
        f"compared and chosen on {facts.held_out} held-out training images; test images were looked at only afterwards.",
    )
    space = list(facts.search.space)
    columns = ["trial", "chosen as", *space, "held-out clean", "held-out robust"]
    columns += ["test clean", "test robust", "attacks"] if facts.tested else []
    rows = []
    for trial in rows_of(facts.found):
        cells = [Cell(trial.name, trial.number, head=True), _text(", ".join(facts.found.roles(trial)))]
        cells += [_value(trial, key) for key in space]
        cells += [number_cell(trial.clean_acc, 100), number_cell(trial.robust_acc, 100)]
        summary = facts.tested.get(trial.number)
        if summary:
            cells += [accuracy_cell(entry) for entry in clean_and_last(summary)]
            cells.append(_text(summary["label"]))
            section.warnings += [f"trial {trial.name}: {warning}" for warning in summary["warnings"]]
        rows.append(cells)
    section.tables.append(Table("The front, accuracies in %", columns, rows))
    words = "Each point is a trial; the pointer shows its options. Error bars are 95 % intervals."
    data = charts.front_chart(facts.search.trials, facts.found, facts.tested, facts.held_out)
    section.figures.append(Figure("Clean against robust accuracy", words, data))
    commands = "\n".join(f"# trial {trial.name}\n{facts.commands[trial.number]}" for trial in rows_of(facts.found))
    section.details.append(("Commands that train each point with the recipe's epochs", commands))
    return section


def _course(facts: SearchFacts) -> Section:
    trials = facts.search.trials
    words = f"{facts.run.search}, {len(trials)} trials; ends trials early {facts.search.rungs.describe()}."
    section = Section("course", "Course of the search", words)
    text = "Area dominated by the front of finished trials, on held-out images; 1 would be perfect in both."
    section.figures.append(Figure("Hypervolume over time", text, charts.hypervolume_chart(trials)))
    return section


def _options(facts: SearchFacts) -> Section:
    section = Section("options", "What the options did", "On held-out images, of finished trials.")
    trials, space = facts.search.trials, facts.search.space
    words = "A line is a trial, from option to option; the front in the stronger colour. Choices are in their order."
    section.figures.append(Figure("Options and accuracies", words, charts.coordinates_chart(trials, space, facts.found)))
    if len(finished(trials)) < charts.FEWEST:
        return section
    importance = importance_of(facts.search)
    if importance:
        text = "Estimated from finished trials; with few of them, only large differences mean anything."
        section.figures.append(Figure("Importance of each option", text, charts.importance_chart(importance)))
    if pair := contour_pair(facts.search, importance):
        for name, accuracy in (("Clean", "clean_acc"), ("Robust", "robust_acc")):
            data = charts.contour_chart(trials, space, pair, accuracy)
            if data:
                title = f"{name} accuracy over {pair[0]} and {pair[1]}"
                text = "Interpolated between trials (dots), whatever their other options are."
                section.figures.append(Figure(title, text, data))
    return section


def importance_of(search: Search) -> dict[str, dict[str, float]]:
    """Share of the variance of each accuracy that each option explains (fANOVA, Hutter et al. 2014, by Optuna); empty where
    trials do not differ."""
    import optuna

    done = finished(search.trials)
    study = optuna.create_study(directions=["maximize", "maximize"])
    study.add_trials([as_optuna(dataclasses.replace(trial, memory={}), search.space) for trial in done])
    found = {}
    for place, name in enumerate(("clean", "robust")):
        if len({trial.point[place] for trial in done if trial.point}) < 2 or len(search.space) < 2:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shares = optuna.importance.get_param_importances(
                study,
                evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0),
                target=functools.partial(_value_at, place),
            )
        found[name] = {key: shares.get(key, 0.0) for key in search.space}
    return found


def _value_at(place: int, trial: Any) -> float:
    return float(trial.values[place])


def contour_pair(search: Search, importance: Mapping[str, Mapping[str, float]]) -> tuple[str, str] | None:
    """Temperature and eps if both are ranges of the space, else the two ranges that matter most."""
    ranges = [key for key, parameter in search.space.items() if isinstance(parameter, Range)]
    named = [next((key for key in ranges if key.endswith(name)), None) for name in ("temperature", "attack.eps")]
    if named[0] and named[1]:
        return named[0], named[1]
    ranges.sort(key=lambda key: -sum(shares.get(key, 0.0) for shares in importance.values()))
    return (ranges[0], ranges[1]) if len(ranges) >= 2 else None


def _trials(facts: SearchFacts) -> Section:
    section = Section("trials", "All trials", "Accuracies on held-out images; those of pruned trials are of the last rung.")
    space = list(facts.search.space)
    rows = []
    for trial in facts.search.trials:
        point = trial.point or (trial.rungs[max(trial.rungs)] if trial.rungs else (None, None))
        cells = [Cell(trial.name, trial.number, head=True), _text(trial.state), *(_value(trial, key) for key in space)]
        cells += [
            number_cell(point[0], 100),
            number_cell(point[1], 100),
            number_cell(trial.seconds),
            number_cell(trial.epochs),
        ]
        rows.append([*cells, _text(trial.reason)])
    columns = ["trial", "state", *space, "clean", "robust", "seconds", "epochs", "why it ended"]
    section.tables.append(Table("All trials", columns, rows))
    return section


def _provenance(facts: SearchFacts) -> Section:
    section = Section("provenance", "Where this comes from", "The command, versions and settings of the search.")
    section.details.append((f"search ({facts.directory.place})", origin_of(facts.directory)))
    return section


def _value(trial: Trial, key: str) -> Cell:
    value = trial.params[key]
    return Cell(tell(value), value if isinstance(value, int | float) else tell(value))


def _text(text: str) -> Cell:
    return Cell(text or "-", text)
