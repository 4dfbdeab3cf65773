"""The end of a search: its front is measured on test images, and written for those who will use it."""

from __future__ import annotations

import dataclasses
import json
import shlex
import shutil
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml
from rich.table import Table

from afa_dist.address import below
from afa_dist.cli import evaluating, exporting, pipeline, training
from afa_dist.cli.pipeline import stages_of
from afa_dist.cli.search_shown import short_name
from afa_dist.cli.trial_runs import Trials
from afa_dist.cli.words import counted, percent, say
from afa_dist.config import EvaluateRun, PipelineRun
from afa_dist.config.exporting import ExportRun
from afa_dist.config.fields import pixels, to_mapping
from afa_dist.config.requirement import parse_requirement
from afa_dist.config.tune import TuneRun
from afa_dist.errors import TrainingError, UserError
from afa_dist.evaluation.summary import accuracy_words, clean_and_last
from afa_dist.files import write_json, write_text
from afa_dist.report.search import SearchFacts, write_search_report
from afa_dist.runtime.evaluation_checks import check as check_evaluation
from afa_dist.runtime.trial_room import TrialRoom
from afa_dist.training.run_dir import RunDirectory
from afa_dist.tuning.choice import Found, found_in
from afa_dist.tuning.parameters import tell
from afa_dist.tuning.population import Population, lineage
from afa_dist.tuning.record import FAILED, Trial
from afa_dist.tuning.search import OVER_BUDGET, Search
from afa_dist.tuning.tables import rows_of, write_front, write_trials


def conclude(run: TuneRun, trials: Trials, search: Search, directory: RunDirectory, room: TrialRoom, held_out: int) -> None:
    """Measure the front, write all results, and show them.

    held_out: images that trials were compared on.

    Raises:
        TrainingError: no trial came to its end.
    """
    write_trials(directory.path / "trials.parquet", search.trials, search.space, len(search.rungs.rungs))
    requirement = parse_requirement(run.require) if run.require else None
    found = found_in(search.trials, requirement)
    if found is None:
        reasons = list(dict.fromkeys(trial.reason for trial in search.trials if trial.state == FAILED))
        if search.stopping == OVER_BUDGET:
            reasons.insert(0, f"budget_hours {run.budget_hours:g} was used up before")
        raise TrainingError(f"no trial came to its end{': ' if reasons else ''}{'; '.join(reasons[:3])}")
    for path in (directory.path / "front").glob("*.yaml"):
        path.unlink()  # of an earlier front; it is made from what stays
    commands = {trial.number: _write_way(trials, trial, search, directory) for trial in rows_of(found)}
    say(f"front: {counted(len(found.front), 'trial')} of {len(search.trials)}, by held-out images")
    tested: dict[int, dict[str, Any]] = {}
    for trial in rows_of(found) if run.final != "none" else []:
        try:
            tested[trial.number] = _measured(run, trials, trial, room)
        except TrainingError as error:
            warnings.warn(f"trial {trial.name} could not be measured: {error}", stacklevel=2)
    write_front(directory.path / "front.csv", found, search.space, tested, commands)
    _write_best(run, trials, found, directory, commands, set(tested))
    facts = SearchFacts(run, search, found, tested, commands, directory, held_out)
    report = _report(facts)
    say(front_table(run, search, found, tested))
    if requirement is not None and found.required is None:
        say(f"no trial meets --require {run.require!r} on the held-out images")
    say(f"the knee, trial {found.knee.name}, at full length: {commands[found.knee.number].removeprefix('# ')}")
    if report:
        say(f"report: {report}")
    say(f"search directory: {directory.path} (trials.parquet, front.csv, best/)")


def front_table(run: TuneRun, search: Search, found: Found, tested: Mapping[int, Mapping[str, Any]]) -> Table:
    """The front, by ascending clean accuracy."""
    threat = run.evaluate.threat
    attacked = [["clean", *summary["attacks"]][-1] for summary in tested.values()]
    title = f"front, {threat.norm} eps {pixels(threat.eps)}; test accuracies in % [95 % interval]"
    names = [short_name(key, search.space) for key in search.space]
    table = Table("trial", *names, "held-out clean", "held-out robust", title=title, title_justify="left")
    if tested:
        table.add_column("test clean")
        table.add_column(f"test {attacked[0]}")
    table.add_column("chosen as")
    for trial in rows_of(found):
        assert trial.point is not None
        cells = [trial.name, *(tell(trial.params[key]) for key in search.space), *map(percent, trial.point)]
        if tested:
            measured = tested.get(trial.number)
            cells += map(accuracy_words, clean_and_last(measured)) if measured else ("-", "-")
        table.add_row(*cells, ", ".join(found.roles(trial)))
    return table


def _write_way(trials: Trials, trial: Trial, search: Search, directory: RunDirectory) -> str:
    """Write how to come to a trial's model; returns the command for it, or where a member's schedule is."""
    if isinstance(search, Population):
        path = directory.path / "front" / f"{trial.name}.yaml"
        path.parent.mkdir(exist_ok=True)
        before, steps = 0.0, []
        for member in lineage(trial, search.trials):
            steps.append({"epochs": [before, member.epochs], "options": member.params, "trial": member.number})
            before = member.epochs
        write_text(path, yaml.safe_dump({"schedule": steps}, sort_keys=False))
        return f"# a schedule, which no single run repeats: {path}"
    return _write_recipe(trials, trial, directory)


def _write_recipe(trials: Trials, trial: Trial, directory: RunDirectory) -> str:
    full = full_run(trials, trial)
    path = directory.path / "front" / f"{trial.name}.yaml"
    path.parent.mkdir(exist_ok=True)
    mapping = to_mapping(full)
    mapping.pop("baseline")
    if mapping["pretrain"] is None:
        mapping.pop("pretrain")
    write_text(path, yaml.safe_dump(mapping, sort_keys=False))
    return f"python jobs/pipeline.py --config {shlex.quote(str(path))}"


def full_run(trials: Trials, trial: Trial) -> PipelineRun:
    """A trial's options with the recipe's epochs, in the folder of the front."""
    return trials.full_run(trial.params, f"{trials.name}/front/{trial.name}")


def model_of(run: TuneRun, trials: Trials, trial: Trial) -> str:
    """Run directory of the model that stands for a trial."""
    folder = "front" if run.final == "retrain" else "trials"
    return below(trials.base.runs_dir, trials.name, folder, trial.name, "finetune")


def evaluation_of(run: TuneRun, trials: Trials, trial: Trial, room: TrialRoom | None) -> EvaluateRun:
    """The measurement of a trial on test images, by as many workers as there is room for."""
    folder = "retrained" if run.final == "retrain" else "measured"
    name = f"{trials.name}/{folder}/{'+'.join(run.final_attacks)}/{trial.name}"
    scaling = run.scaling
    if room is not None:
        workers = room.at_once * max(1, room.placement.workers)
        scaling = dataclasses.replace(scaling, workers=workers, threads=room.placement.threads)
    return dataclasses.replace(
        full_run(trials, trial).evaluate,
        model=model_of(run, trials, trial),
        name=name,
        scaling=scaling,
        gpu_share=room.gpus if room is not None else 1.0,
    )


def _measured(run: TuneRun, trials: Trials, trial: Trial, room: TrialRoom) -> dict[str, Any]:
    if run.final == "retrain":
        full = full_run(trials, trial)
        splits = pipeline.check(full)
        for stage, training_run in stages_of(full).items():
            training.execute(training_run, splits[training_run.data], f"{trial.name} {stage}")
    evaluation = evaluation_of(run, trials, trial, room)
    return evaluating.measure(evaluation, check_evaluation(evaluation), f"measure trial {trial.name}")


def _write_best(
    run: TuneRun,
    trials: Trials,
    found: Found,
    directory: RunDirectory,
    commands: Mapping[int, str],
    measured: Collection[int],
) -> None:
    """A folder for each chosen trial: the model to publish if it was measured, its recipe, and why it was chosen."""
    for role, trial in (("knee", found.knee), ("required", found.required)):
        folder = directory.path / "best" / role
        if folder.is_dir() and (trial is None or read_choice(folder) != trial.number):
            shutil.rmtree(folder)  # made from what stays
        if trial is None:
            continue
        chosen = {
            "trial": trial.number,
            "chosen_by": run.require if role == "required" else "knee of the front on held-out images",
            "options": trial.params,
            "held_out": {"clean_acc": trial.clean_acc, "robust_acc": trial.robust_acc},
            "model": model_of(run, trials, trial),
            "command": commands[trial.number],
        }
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "choice.json", chosen)
        write_text(folder / "recipe.yaml", (directory.path / "front" / f"{trial.name}.yaml").read_text())
        if trial.number in measured:
            _export(run, trials, trial, folder / "model")


def read_choice(folder: Path) -> int | None:
    """The trial that a folder of best/ is of."""
    try:
        return int(json.loads((folder / "choice.json").read_text())["trial"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _export(run: TuneRun, trials: Trials, trial: Trial, folder: Path) -> None:
    evaluation = evaluation_of(run, trials, trial, None)
    place = below(evaluation.runs_dir, evaluation.name)
    try:
        options = ExportRun(
            model=evaluation.model, evaluations=(place,), folder=str(folder), title=f"{trials.name}, trial {trial.name}"
        )
        exporting.write_export(folder, options, exporting.check(options))
    except UserError as error:
        warnings.warn(f"{folder} was not written: {'; '.join(map(str, error.problems))}", stacklevel=2)


def _report(facts: SearchFacts) -> Path | None:
    path = facts.directory.path / "report.html"
    try:
        write_search_report(facts, path)
    except Exception as error:  # results are there, and must not be lost for the want of a page
        warnings.warn(f"no report was written: {error}", stacklevel=2)
        return None
    return path
