"""A search: trials of one recipe with sampled options, and the front of those that no other beats in both accuracies."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Literal

from afa_dist.config.attack_names import VALID_ATTACKS, meant, parse_attack, single_attacks
from afa_dist.config.fields import Section, section, setting
from afa_dist.config.requirement import parse_requirement
from afa_dist.config.runs import PipelineRun
from afa_dist.errors import Problem


@dataclasses.dataclass(kw_only=True, frozen=True)
class PruningConfig(Section):
    """Which trials end early. Accuracies are compared at rungs: the same share of training for all trials."""

    rule: Literal["pareto", "asha", "none"] = setting(
        "pareto",
        "pareto = a trial ends that another one beats by margin in both accuracies at the same rung; asha = successive "
        "halving (1810.05934) on one number, a weighted mean of both; none = all run to their end",
    )
    rungs: tuple[float, ...] = setting((0.25, 0.5), "where trials are compared: parts of the training that the recipe has")
    unit: Literal["epochs", "passes"] = setting(
        "epochs", "what the parts are of: epochs of all stages, or forward passes an image, of which PGD steps take more"
    )
    margin: float = setting(0.03, "by how much both accuracies must be lower before a trial ends (pareto)", ge=0, le=1)
    weight: float = setting(
        0.5, "weight of robust accuracy in the one number (asha); clean accuracy has the rest", ge=0, le=1
    )
    reduction: int = setting(3, "of so many trials at a rung, one goes on (asha)", ge=2)
    first_steps: int = setting(
        5, "PGD steps of measurements up to the first rung; those after it take validation.steps", ge=1
    )

    def problems(self) -> Iterator[Problem]:
        rungs = list(self.rungs)
        if rungs != sorted(set(rungs)) or not all(0 < rung < 1 for rung in rungs) or (not rungs and self.rule != "none"):
            shown = ", ".join(f"{rung:g}" for rung in rungs) or "none"
            yield Problem("rungs", f"{shown}: give ascending numbers between 0 and 1, such as 0.25,0.5")


@dataclasses.dataclass(kw_only=True, frozen=True)
class PopulationConfig(Section):
    """Population based training (search pbt): the worst members go on from the best, with options changed a little."""

    size: int = setting(8, "members that train side by side", ge=2)
    interval: int = setting(2, "epochs between two such moments", ge=1)
    quantile: float = setting(0.25, "part of the members that gives way, and part that is taken over from", gt=0, le=0.5)
    resample: float = setting(0.25, "chance that an option is drawn anew instead of changed a little", ge=0, le=1)


@dataclasses.dataclass(kw_only=True, frozen=True)
class TuneConfig(Section):
    """What is searched, how, for how long, and what becomes of the front."""

    space: str = setting("", "file with the search space: a Python file with a function space(), or YAML; see tune_spaces/")
    search: Literal["tpe", "nsga2", "random", "grid", "pbt"] = setting(
        "tpe",
        "who proposes options: Optuna's TPE for two objectives, its NSGA-II, random draws, all combinations of a space "
        "that has choices only, or population based training, which finds schedules",
    )
    max_trials: int = setting(24, "trials in all, those of earlier starts included; grid: all combinations", ge=1)
    budget_hours: float = setting(0.0, "hours of searching, those of earlier starts included; 0 = no limit", ge=0)
    at_once: int = setting(0, "trials at once; 0 = as many as there is room for", ge=0)
    trial_gpus: float = setting(
        1.0, "part of a GPU that a trial of one worker takes, where there are GPUs: 0.25 puts four on one", gt=0, le=1
    )
    max_failures: int = setting(2, "how often a trial is begun again whose process or node is lost", ge=0)
    resume: bool = setting(False, "refuse to begin a new search: there must be one to go on with")
    length: float = setting(1.0, "part of the recipe's epochs that a trial trains, in each stage", gt=0, le=1)
    pruning: PruningConfig = section(PruningConfig, "which trials end early")
    population: PopulationConfig = section(PopulationConfig, "of search pbt")
    require: str = setting(
        "",
        'what a chosen trial must reach on the held-out images, such as "clean>=0.80"; it then has the best other accuracy',
    )
    final: Literal["take", "retrain", "none"] = setting(
        "take",
        "what is measured at the end: the trials of the front as they are, retrained with the recipe's epochs, or nothing",
    )
    final_attacks: tuple[str, ...] = setting(
        ("autoattack",), f"attacks that measure the front on test images: {VALID_ATTACKS}"
    )

    def problems(self) -> Iterator[Problem]:
        if self.require and parse_requirement(self.require) is None:
            what = f'{self.require!r} is not known; write "clean>=0.80" or "robust>=0.45" (parts of 1)'
            yield Problem("require", what)
        attacks = list(single_attacks(self.final_attacks))
        if not attacks:
            yield Problem("final_attacks", "names no attack; choose final none to measure nothing")
        if len(set(attacks)) < len(attacks):
            yield Problem("final_attacks", f"{', '.join(self.final_attacks)} names an attack twice; name each once")
        for name in attacks:
            if parse_attack(name) is None:
                yield Problem("final_attacks", f"{name!r} is not known{meant(name)}; write {VALID_ATTACKS}")


@dataclasses.dataclass(kw_only=True, frozen=True)
class TuneRun(TuneConfig, PipelineRun):
    """What the command line of a search takes: its own options, and those of the recipe that all trials share."""

    def problems(self) -> Iterator[Problem]:
        yield from TuneConfig.problems(self)
        yield from PipelineRun.problems(self)
