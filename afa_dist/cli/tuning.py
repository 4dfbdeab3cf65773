"""The job behind jobs/tune.py: trials of a recipe with sampled options, their front, and what it is worth."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

import torch
from rich.table import Table

from afa_dist.address import is_address
from afa_dist.cli import recipes
from afa_dist.cli.arguments import Arguments, parse
from afa_dist.cli.console import counted, say
from afa_dist.cli.job import raise_any, run_job, where_of
from afa_dist.cli.pipeline import check as check_pipeline
from afa_dist.cli.pipeline import stages_of
from afa_dist.cli.search_result import conclude
from afa_dist.cli.search_shown import SearchProgress, describe_trial
from afa_dist.cli.trial_runs import Trials, image_problems, space_problems
from afa_dist.config import BaseRun, ThreatConfig, TrainingRun
from afa_dist.config.fields import hints_of, pixels, to_mapping
from afa_dist.config.tune import TuneConfig, TuneRun
from afa_dist.data.catalogue import DataSplits, load_splits
from afa_dist.errors import Problem, UserError, collected
from afa_dist.runtime.cluster import alive_nodes, session
from afa_dist.runtime.placement import addressed_cluster, cores
from afa_dist.runtime.space_file import read_space
from afa_dist.runtime.trial_room import trial_room
from afa_dist.training.provenance import provenance
from afa_dist.training.run_dir import OTHERS_SECONDS, RunDirectory
from afa_dist.tuning.parameters import Space, as_record
from afa_dist.tuning.population import Population
from afa_dist.tuning.record import RUNNING, Trial, TrialStore
from afa_dist.tuning.sampling import count_of
from afa_dist.tuning.search import OVER_BUDGET, Search

RECORD = "search.json"
"""In the search's directory: the space, and how long it has been searched."""


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A search whose mistakes were found. run: its specification, as it is recorded."""

    run: TuneRun
    trials: Trials
    space: Space
    splits: DataSplits


def main(program: str, description: str) -> int:
    """Search from the command line; returns the exit code."""
    arguments = parse(TuneRun, sys.argv[1:], program=program, description=description)
    return run_job(
        resolve,
        arguments,
        check=lambda config: check(config, arguments),
        check_partly=lambda values: None,
        dry_run=describe,
        execute=execute,
        shown=lambda config: to_mapping(_run_of(config, _trials(config, arguments))),
    )


def resolve(arguments: Arguments) -> tuple[type[TuneConfig], dict[str, Any]]:
    """The search's own options: those in a recipe's `tune` < the command line."""
    section = _recipe(arguments).get("tune") or {}
    if not isinstance(section, Mapping):
        raise UserError.one("tune", f"is a section with options of its own, not {section!r}")
    typed = recipes.nest(arguments.overrides)
    values = recipes.merge(section, {key: value for key, value in typed.items() if key in hints_of(TuneConfig)})
    if values.get("search") == "pbt":  # the worst members give way, none ends early
        values["pruning"] = recipes.merge(values.get("pruning") or {}, {"rule": "none"})
    return TuneConfig, values


def _recipe(arguments: Arguments) -> dict[str, Any]:
    return recipes.read_recipe(arguments.config, search=True) if arguments.config else {}


def _trials(config: TuneConfig, arguments: Arguments) -> Trials:
    typed = recipes.nest(arguments.overrides)
    own = hints_of(TuneConfig)
    return Trials.of(_recipe(arguments), {key: value for key, value in typed.items() if key not in own}, config)


def _run_of(config: TuneConfig, trials: Trials) -> TuneRun:
    """The specification that is recorded: the search's own options, and those that its trials share."""

    def own(section: Any) -> dict[str, Any]:
        return {field.name: getattr(section, field.name) for field in dataclasses.fields(section)}

    return TuneRun(**own(trials.base), **own(config))


def check(config: TuneConfig, arguments: Arguments) -> Prepared:
    """The space, the recipe, images and directories, checked against each other.

    Raises:
        UserError: all mistakes.
    """
    problems: list[Problem] = []
    space, trials, splits = None, None, None
    with collected(problems):
        trials = _trials(config, arguments)
    with collected(problems):
        space = read_space(config.space, trials.base.evaluate.threat if trials else ThreatConfig())
    if space is not None and trials is not None:
        problems.extend(space_problems(space, trials))
        problems.extend(_grid_problems(config, space))
        problems.extend(_population_problems(config, space, trials))
    if trials is not None:
        problems.extend(wrong := _base_problems(trials))
        with collected(problems):
            first = trials.run({}, "new")
            splits = load_splits(first.finetune.data) if wrong else check_pipeline(first)[first.finetune.data]
    if not problems and space is not None and trials is not None and splits is not None:
        problems.extend(image_problems(space, trials, splits))
    raise_any(problems)
    assert space is not None and trials is not None and splits is not None
    run = _run_of(config, trials)
    if addressed_cluster() is None:  # a cluster says itself what it has
        trial_room(
            run.scaling, config.at_once, [{"CPU": cores(), "GPU": torch.cuda.device_count()}], None, config.max_trials
        )
    raise_any(_directory_problems(run, space, splits))
    return Prepared(run, trials, space, splits)


def _base_problems(trials: Trials) -> list[Problem]:
    base, problems = trials.base, []
    if is_address(base.runs_dir):
        what = f"{base.runs_dir} is no folder, which a search needs; on many nodes use one that they share"
        problems.append(Problem("runs_dir", what))
    if any(training.scaling.elastic for training in stages_of(base).values()):
        problems.append(Problem("scaling.workers", "a range is not possible in a search; give the workers of one trial"))
    if len({training.data for training in stages_of(base).values()}) > 1:
        problems.append(Problem("data", "differs between stages; trials are compared on the same held-out images"))
    return problems


def _population_problems(config: TuneConfig, space: Space, trials: Trials) -> list[Problem]:
    """What a member could not go on with from the weights of another one."""
    if config.search != "pbt":
        return []
    problems = []
    (last, training), *others = reversed(stages_of(trials.base).items())
    if others:
        what = (
            f"pbt needs a recipe of one stage, this one has {', '.join(stages_of(trials.base))}; start from a finished one"
        )
        problems.append(Problem("search", what))
    for key in space:
        bare = key.removeprefix(f"{last}.")
        if bare.split(".")[0] in ("model", "data", "schedule", "ema", "mode", "method") and bare != "method.temperature":
            problems.append(Problem(key, "cannot change while weights are taken over (search pbt)"))
    every = training.validation.every_epochs
    if config.population.interval % every:
        what = f"{config.population.interval} is no multiple of validation.every_epochs, {every}: members are compared then"
        problems.append(Problem("population.interval", what))
    if config.final == "retrain":
        problems.append(Problem("final", "retrain cannot repeat a schedule that a population found; use take or none"))
    return problems


def _grid_problems(config: TuneConfig, space: Space) -> list[Problem]:
    if config.search != "grid":
        return []
    endless = [key for key in space if count_of({key: space[key]}) == float("inf")]
    if endless:
        return [Problem(key, f"has no steps ({space[key].words()}); a grid needs choices") for key in endless]
    if count_of(space) > config.max_trials:
        what = f"{config.max_trials} is less than the {count_of(space):.0f} combinations of the grid; raise it"
        return [Problem("max_trials", what)]
    return []


def _directory_problems(run: TuneRun, space: Space, splits: DataSplits) -> list[Problem]:
    """What lies there may be another search; one of another space is."""
    directory = RunDirectory.of(run)
    problems = [*directory.problems(run), *directory.data_problems(splits.fingerprint())]
    recorded = directory.read_json(RECORD) if directory.path.is_dir() else None
    if recorded is None and run.resume:
        problems.append(
            Problem("resume", f"there is no search in {directory.place} to go on with; check name and runs_dir")
        )
    if recorded and recorded["space"] != as_record(space):
        differing = [
            key
            for key in {**recorded["space"], **as_record(space)}
            if recorded["space"].get(key) != as_record(space).get(key)
        ]
        what = f"{directory.place} holds a search of another space (differs in {', '.join(differing)}); choose another name"
        problems.append(Problem("space", what))
    return problems


def describe(config: TuneConfig, prepared: Prepared) -> None:
    """Say what would be searched, and what is the same for all trials."""
    trials, run = prepared.trials, prepared.run
    table = Table("searched", "values")
    for key, parameter in prepared.space.items():
        table.add_row(key, parameter.words())
    say(table)
    threat = trials.base.evaluate.threat
    splits = prepared.splits
    say(f"threat model, fixed: {threat.norm}, eps {pixels(threat.eps)}; it measures every trial, whatever that trains with")
    finetune = trials.base.finetune
    images = f"{len(splits.held_out)} held-out images of {finetune.data.name}"
    say(f"measured on: {images}, PGD-{finetune.validation.steps}; no test image")
    lengths = ", ".join(
        f"{stage} {counted(t.schedule.epochs, 'epoch')}" for stage, t in stages_of(trials.run({}, "new")).items()
    )
    say(f"a trial: {lengths}")
    if config.search == "pbt":
        members = config.population
        say(
            f"search: pbt, {members.size} members; every {counted(members.interval, 'epoch')} the worst go on from the best"
        )
    else:
        say(f"search: {config.search}, {counted(config.max_trials, 'trial')}; ends trials early {trials.rungs.describe()}")
    cluster = addressed_cluster()
    say(f"runs on {f'the cluster at {cluster}' if cluster else 'Ray on this machine'}")
    say(f"directory: {where_of(run)}")


def _ray(run: BaseRun) -> Any:
    """The scaling that a session is asked for: Ray, with the cores that there are; how many trials fit is seen then."""
    return dataclasses.replace(run.scaling, workers=1, threads=1)


def execute(config: TuneConfig, prepared: Prepared) -> None:
    """Search, or go on with a search, then measure its front and write the results."""
    describe(config, prepared)
    run = prepared.run
    directory = RunDirectory.of(run)
    with directory.locked(OTHERS_SECONDS), session(_ray(run)) as placement:
        raise_any(_directory_problems(run, prepared.space, prepared.splits))  # nobody else writes now
        room = trial_room(run.scaling, config.at_once, alive_nodes(), placement.cluster, config.max_trials)
        say(f"room for {room.describe()}")
        directory.create(run, provenance(run.seed, prepared.splits.fingerprint()))
        search = search_of(prepared, directory)
        directory.write_json(RECORD, {"space": as_record(prepared.space), "seconds": search.seconds_before})
        if search.trials:
            going = sum(trial.state == RUNNING for trial in search.trials)
            say(f"continues: {len(search.trials) - going} trials have ended, {going} go on")
        from afa_dist.runtime.tune import run_search  # imports Ray, after the session's settings

        def stages(trial: Trial) -> tuple[Mapping[str, TrainingRun], Mapping[str, tuple[float, float]]]:
            made = prepared.trials.run(trial.params, trial.name)
            return stages_of(made), prepared.trials.offsets(made)

        with SearchProgress(search) as progress:
            search.on_change = lambda trial: say(describe_trial(trial, prepared.space))
            try:
                run_search(search, stages, prepared.splits, room, progress.look)
            finally:
                directory.write_json(RECORD, {"space": as_record(prepared.space), "seconds": round(search.seconds, 1)})
        if search.stopping == OVER_BUDGET:
            left = sum(trial.state == RUNNING for trial in search.trials)
            say(
                f"budget_hours {config.budget_hours:g} is used up; {left} trials are not finished, more hours continue them"
            )
        conclude(prepared.run, prepared.trials, search, directory, room)


def search_of(prepared: Prepared, directory: RunDirectory) -> Search:
    """The search in a directory, wherever it stands."""
    config, recorded = prepared.trials.config, directory.read_json(RECORD) or {}
    facts: dict[str, Any] = {
        "config": config,
        "space": prepared.space,
        "store": TrialStore(directory.path / "trials"),
        "rungs": prepared.trials.rungs,
        "seed": prepared.run.seed,
        "refusal": prepared.trials.refusal,
        "seconds_before": float(recorded.get("seconds", 0.0)),
    }
    if config.search == "pbt":
        return Population(**facts, population=config.population, epochs=prepared.trials.epochs)
    return Search(**facts)
