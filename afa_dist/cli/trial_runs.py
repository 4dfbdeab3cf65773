"""From a recipe, a space and sampled options to the runs of a trial; all that can be wrong with them, before any runs."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from afa_dist.cli import recipes
from afa_dist.cli.pipeline import stage_values, stages_of
from afa_dist.cli.specification import build, leaves, unknown_option
from afa_dist.config import PipelineRun, RobustRun, ThreatConfig
from afa_dist.config.budget import images_of_epoch, passes_per_image
from afa_dist.config.tune import TuneConfig
from afa_dist.data.catalogue import DataSplits
from afa_dist.errors import Problem, UserError
from afa_dist.training.preflight import data_problems
from afa_dist.tuning.parameters import Params, Space, tell
from afa_dist.tuning.pruning import Rungs

R = TypeVar("R", bound=RobustRun)

FIXED = {
    "evaluate": "the evaluation's threat model is the same for all trials, or they could not be compared",
    "validation": "trials are compared by this measurement, so it is the same for all",
    "data.held_out": "trials are compared on these images",
    "data.name": "trials are compared on the same images",
    "data.path": "trials are compared on the same images",
    "data.train_limit": "trials are compared on the same images",
    "data.test_limit": "trials are compared on the same images",
    "data.image_size": "trials are compared on the same images",
    "schedule.epochs": "trials are compared after the same epochs; how many, says the recipe (or length)",
    "seed": "the best of many seeds is luck; all trials have the same",
    "name": "the search names its trials",
    "runs_dir": "the search has a folder for its trials",
    "init": "what a trial starts from is the recipe's affair",
    "scaling": "results do not depend on it",
    "checkpoint": "results do not depend on it",
    "tracking": "results do not depend on it",
    "baseline": "a search has no baseline",
}
"""Options that a space may not vary, and why."""

MOST_CORNERS = 256
"""Combinations of ends of a space that are looked at before the search."""


@dataclasses.dataclass(frozen=True)
class Trials:
    """What all trials have in common.

    recipe, typed: options from the file and the command line. base: the run that they make, of full length.
    """

    name: str
    recipe: Mapping[str, Any]
    typed: Mapping[str, Any]
    config: TuneConfig
    base: PipelineRun

    @classmethod
    def of(cls, recipe: Mapping[str, Any], typed: Mapping[str, Any], config: TuneConfig) -> Trials:
        """
        Raises:
            UserError: the recipe or the command line are wrong, whatever is searched.
        """
        # A baseline of the recipe is no part of a search.
        recipe = {key: value for key, value in recipe.items() if key not in ("tune", "baseline")}
        recipe = {key: _unplaced(key, value, recipe) for key, value in recipe.items()}
        if "baseline" in typed:
            raise UserError.one("baseline", "a search has no baseline; train it with jobs/pipeline.py")
        name = str(typed.get("name", recipe.get("name", "search")))
        base = build(PipelineRun, stage_values(recipe, {**typed, "name": name}))
        return cls(name, recipe, typed, config, base)

    def run(self, params: Params, trial: str) -> PipelineRun:
        """The runs of a trial, as long as `config.length` says, in their folder below the search's."""
        run = self.full_run(params, f"{self.name}/trials/{trial}")
        before, changed = 0.0, dict[str, Any]()
        for stage, training in stages_of(run).items():
            short = _with_length(training, self.config.length)
            changed[stage] = self._compared(short, before)
            before += self._progress_of(short)
        return dataclasses.replace(run, **changed)

    def full_run(self, params: Params, name: str) -> PipelineRun:
        """A pipeline with sampled options and the recipe's epochs.

        Raises:
            UserError: the options do not go together.
        """
        typed = recipes.merge(self.typed, recipes.nest(params))
        run = build(PipelineRun, stage_values(self.recipe, {**typed, "name": name}))
        if run.pretrain is not None and run.pretrain.model != run.finetune.model:
            raise UserError.one("finetune.model", "differs from pretrain.model; name model.* for both stages")
        # Whatever was sampled, the measurement stays the same.
        threat, attacks = self.base.evaluate.threat, self.config.final_attacks
        stages: dict[str, Any] = {stage: _validated_in(training, threat) for stage, training in stages_of(run).items()}
        return dataclasses.replace(
            run,
            **stages,
            evaluate=dataclasses.replace(
                run.evaluate,
                threat=threat,
                attacks=attacks,
                fast=False,
                part="test",
                shard="",
                merge=False,
                time_limit=0.0,
            ),
        )

    @property
    def rungs(self) -> Rungs:
        """Where trials are compared: the same for all, by the length of a trial of the recipe's own options."""
        return Rungs.of(self.config.pruning, sum(map(self._progress_of, self._short_stages)))

    @property
    def epochs(self) -> int:
        """Epochs of a trial of the recipe's own options, all stages together."""
        return sum(training.schedule.epochs for training in self._short_stages)

    @property
    def _short_stages(self) -> list[RobustRun]:
        return [_with_length(training, self.config.length) for training in stages_of(self.base).values()]

    def offsets(self, run: PipelineRun) -> dict[str, tuple[float, float]]:
        """For each stage of a trial, where it begins on the scale of the rungs, and what an epoch of it counts there."""
        found, before = {}, 0.0
        for stage, training in stages_of(run).items():
            found[stage] = (before, _unit(training, self.config.pruning.unit))
            before += self._progress_of(training)
        return found

    def refusal(self, params: Params, trial: str) -> str:
        """Why a trial with these options cannot be, or an empty text."""
        try:
            self.run(params, trial)
        except UserError as error:
            return "; ".join(map(str, error.problems))
        return ""

    def _compared(self, run: R, before: float) -> R:
        """`run`, validated as trials are compared. before: length of the stages before it."""
        validation = run.validation
        first = min(self.rungs.rungs, default=0.0) - before
        # Up to the validation that is the first one at the rung, so that all trials have the same there.
        epochs = math.ceil(first / _unit(run, self.config.pruning.unit) / validation.every_epochs - 1e-9)
        own = dataclasses.replace(
            validation,
            cheap_epochs=max(0, epochs * validation.every_epochs),
            cheap_steps=min(validation.steps, self.config.pruning.first_steps),
        )
        return dataclasses.replace(run, validation=own)

    def _progress_of(self, run: RobustRun) -> float:
        return run.schedule.epochs * _unit(run, self.config.pruning.unit)


def _unplaced(stage: str, values: Any, recipe: Mapping[str, Any]) -> Any:
    """A stage's options without those that say where its run is, and what it starts from: each trial has its own."""
    if stage not in recipes.STAGES or not isinstance(values, Mapping):
        return values
    own = {"name"} | ({"model"} if stage == "evaluate" else {"init"} if recipe.get("pretrain") is not None else set())
    return {key: value for key, value in values.items() if key not in own}


def _validated_in(run: R, threat: ThreatConfig) -> R:
    return dataclasses.replace(run, validation=dataclasses.replace(run.validation, norm=threat.norm, eps=threat.eps))


def _unit(run: RobustRun, unit: str) -> float:
    """What an epoch of `run` counts on the scale of the rungs."""
    return 1.0 if unit == "epochs" else passes_per_image(run) * images_of_epoch(run.data)


def _with_length(run: R, length: float) -> R:
    epochs = max(1, round(run.schedule.epochs * length))
    return dataclasses.replace(run, schedule=dataclasses.replace(run.schedule, epochs=epochs))


def space_problems(space: Space, trials: Trials) -> Iterator[Problem]:
    """Options that are not there, must not vary, or were typed; values that no trial may have."""
    wrong = set()
    valid = valid_keys(trials.base)
    for key in space:
        if why := _fixed(key):
            yield Problem(key, f"cannot be searched: {why}")
        elif key not in valid:
            yield unknown_option(key, valid)
        elif typed := _typed_too(key, trials.typed):
            yield Problem(key, f"is in the space and on the command line (--{typed}); leave out one of them")
        else:
            continue
        wrong.add(key)
    yield from _value_problems({key: space[key] for key in space if key not in wrong}, trials)


def valid_keys(base: PipelineRun) -> list[str]:
    """Options that a space may vary: those of single stages, and those of all stages that have them."""
    found: dict[str, None] = {}
    stages = stages_of(base)
    for training in stages.values():
        found |= dict.fromkeys(name for name, _, _ in leaves(type(training)))
    for stage, training in stages.items():
        found |= dict.fromkeys(f"{stage}.{name}" for name, _, _ in leaves(type(training)))
    return [key for key in found if not _fixed(key)]


def _fixed(key: str) -> str:
    first, _, rest = key.partition(".")
    bare = rest if first in ("pretrain", "finetune") else key
    return next((why for fixed, why in FIXED.items() if bare == fixed or bare.startswith(f"{fixed}.")), "")


def _typed_too(key: str, typed: Mapping[str, Any]) -> str:
    """The typed option that says what `key` says, for one stage or for all; empty if there is none."""

    def bare(name: str) -> str:
        first, _, rest = name.partition(".")
        return rest if first in recipes.STAGES else name

    for name in _dotted(typed):
        if name == key or (bare(name) == bare(key) and (name == bare(name) or key == bare(key))):
            return name
    return ""


def _dotted(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _value_problems(space: Space, trials: Trials) -> Iterator[Problem]:
    """What the configuration refuses of the ends of each range and of each choice: alone, then of all together."""
    alone: dict[Problem, None] = {}
    for key, parameter in space.items():
        for value in parameter.ends:
            for problem in _refused({key: value}, trials):
                alone[Problem(key, f"takes {tell(value)} in the space ({parameter.words()}): {problem.what}")] = None
    yield from alone
    if alone:
        return
    together: dict[str, tuple[Problem, Params]] = {}
    ends = itertools.islice(itertools.product(*(parameter.ends for parameter in space.values())), MOST_CORNERS)
    for values in ends:
        params = dict(zip(space, values, strict=True))
        for problem in _refused(params, trials):
            together.setdefault(problem.where, (problem, params))
    for problem, params in together.values():
        where = ", ".join(f"{key} {tell(value)}" for key, value in params.items())
        yield Problem(problem.where, f"{problem.what} (with {where}, which the space allows)")


def _refused(params: Params, trials: Trials) -> list[Problem]:
    try:
        trials.run(params, "0000")
    except UserError as error:
        return list(error.problems)
    return []


def image_problems(space: Space, trials: Trials, splits: DataSplits) -> Iterator[Problem]:
    """What shows beside the images, at the ends of each range."""
    base = trials.base
    if not len(splits.held_out):
        yield Problem("data.held_out", "0 leaves no images to compare trials on; use -1, or so many images")
    if base.evaluate.threat.eps == 0:
        yield Problem("evaluate.threat.eps", "0 leaves nothing to be robust against")
    if any(training.validation.steps == 0 for training in stages_of(base).values()):
        yield Problem("validation.steps", "0 measures no robust accuracy, which trials are compared by; use 10")
    found: dict[Problem, None] = {}
    for key, parameter in space.items():
        for value in parameter.ends:
            for stage, training in stages_of(trials.run({key: value}, "new")).items():
                for problem in data_problems(training, splits):
                    found[problem.under(stage)] = None
    yield from found
