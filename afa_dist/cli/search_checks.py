"""What can be wrong with a search, found before anything starts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from afa_dist.address import is_address
from afa_dist.cli import recipes
from afa_dist.cli.arguments import Arguments
from afa_dist.cli.job import raise_any
from afa_dist.cli.pipeline import check as check_pipeline
from afa_dist.cli.pipeline import stages_of
from afa_dist.cli.trial_runs import Trials, image_problems, space_problems
from afa_dist.config import ThreatConfig
from afa_dist.config.fields import hints_of
from afa_dist.config.tune import TuneConfig, TuneRun
from afa_dist.data.catalogue import DataSplits, load_splits
from afa_dist.errors import Problem, UserError, collected
from afa_dist.runtime.placement import addressed_cluster, cores
from afa_dist.runtime.space_file import read_space
from afa_dist.runtime.trial_room import trial_room
from afa_dist.training.run_dir import RunDirectory
from afa_dist.tuning.parameters import Space, as_record
from afa_dist.tuning.sampling import count_of

RECORD = "search.json"
"""In the search's directory: the space, and how long it has been searched."""


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A search whose mistakes were found. run: its specification, as it is recorded."""

    run: TuneRun
    trials: Trials
    space: Space
    splits: DataSplits


def resolve(arguments: Arguments) -> tuple[type[TuneConfig], dict[str, Any]]:
    """The search's own options: those in a recipe's `tune` < the command line."""
    section = _recipe(arguments).get("tune") or {}
    if not isinstance(section, Mapping):
        raise UserError.one("tune", f"is a section with options of its own, not {section!r}")
    typed = recipes.nest(arguments.overrides)
    values = recipes.merge(section, {key: value for key, value in typed.items() if key in hints_of(TuneConfig)})
    if values.get("search") == "pbt":  # the worst members give way, none ends early
        pruning = values.get("pruning")
        values["pruning"] = recipes.merge(pruning if isinstance(pruning, Mapping) else {}, {"rule": "none"})
    return TuneConfig, values


def _recipe(arguments: Arguments) -> dict[str, Any]:
    """The recipe. The config.yaml of a search is one too, with the search's own options at its top."""
    recipe = recipes.read_recipe(arguments.config, search=True) if arguments.config else {}
    own = {key: value for key, value in recipe.items() if "space" in recipe and key in hints_of(TuneConfig)}
    rest = {key: value for key, value in recipe.items() if key not in own}
    return {**rest, "tune": recipes.merge(own, rest.get("tune") or {})} if own else recipe


def trials_of(config: TuneConfig, arguments: Arguments) -> Trials:
    typed = recipes.nest(arguments.overrides)
    own = hints_of(TuneConfig)
    return Trials.of(_recipe(arguments), {key: value for key, value in typed.items() if key not in own}, config)


def run_of(config: TuneConfig, trials: Trials) -> TuneRun:
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
        trials = trials_of(config, arguments)
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
    run = run_of(config, trials)
    if addressed_cluster() is None:  # a cluster says itself what it has
        trial_room(run.scaling, [{"CPU": cores(), "GPU": torch.cuda.device_count()}], None, config)
    raise_any(directory_problems(run, space, splits))
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
        if bare == "afa_weight" and 0 in space[key].ends:
            problems.append(Problem(key, "takes 0, which makes another network (search pbt); begin above it"))
    if trials.base.scaling.fewest > 1:
        problems.append(Problem("scaling.workers", "more than one a member is not possible with search pbt; use 1"))
    if training.validation.patience:
        problems.append(Problem("validation.patience", "ends members early, which wait for each other (search pbt); use 0"))
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


def directory_problems(run: TuneRun, space: Space, splits: DataSplits) -> list[Problem]:
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
