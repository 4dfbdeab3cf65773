"""Who proposes options: a function of the search's seed, the number of the trial, and what is known of the others.

Optuna's samplers are made anew for each trial, and told all that there is, so a search that was stopped proposes what it
would have proposed. With several trials at once it matters which of them ended first: that is no longer the seed's alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from afa_dist.distributed import derive_seed
from afa_dist.tuning.parameters import Choice, Params, Range, Space, Value
from afa_dist.tuning.record import FAILED, FINISHED, PASSED, PRUNED, RUNNING, Trial

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

DRAWS = 20
"""How often another proposal is asked for in place of one that has been tried."""

STARTUP = 8
"""Random trials before TPE proposes any."""

POPULATION = 8
"""Individuals in a generation of NSGA-II. Not of `max_trials`, which may change while a search goes on."""


def propose(search: str, space: Space, seed: int, trials: Sequence[Trial]) -> tuple[Params, dict[str, Any]] | None:
    """Options for the next trial, and what the sampler wants to be kept with it; None where all were tried.

    search: "tpe", "nsga2", "random" or "grid". trials: all so far.
    """
    tried = [trial.params for trial in trials]
    if search == "grid" or len(tried) >= count_of(space):
        left = [point for point in combinations(space) if point not in tried]
        return (left[0], {}) if left else None
    for draw in range(DRAWS):
        # After half of them, by chance: a sampler may insist on what it found best.
        sampler = _sampler(search if draw < DRAWS // 2 else "random", seed, len(trials), draw)
        params, memory = _ask(sampler, space, trials)
        if params not in tried:
            return params, memory
    left = [point for point in combinations(space) if point not in tried] if count_of(space) < math.inf else [params]
    return left[0], memory


def count_of(space: Space) -> float:
    """How many combinations there are; infinite where one of the ranges has no steps."""
    return math.prod(len(values) if (values := values_of(parameter)) else math.inf for parameter in space.values())


def combinations(space: Space) -> list[Params]:
    """All combinations of a space whose `count_of` is finite; the last option varies fastest."""
    listed = [values_of(parameter) for parameter in space.values()]
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*listed)]


def values_of(parameter: Range | Choice) -> list[Value]:
    """All values of a choice, of whole numbers or of a range in steps; empty for other ranges."""
    if isinstance(parameter, Choice):
        return list(parameter.values)
    step = parameter.step or (1 if parameter.whole else 0)
    if not step or parameter.log:
        return []
    count = math.floor((parameter.high - parameter.low) / step + 1e-9) + 1
    if parameter.whole:
        return [int(parameter.low + index * step) for index in range(count)]
    return [parameter.low + index * step for index in range(count)]


def _sampler(search: str, seed: int, number: int, draw: int) -> BaseSampler:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    own = derive_seed("search", seed, number, draw) % 2**32
    if search == "tpe":
        return optuna.samplers.TPESampler(seed=own, n_startup_trials=STARTUP, multivariate=True, constant_liar=True)
    if search == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=own, population_size=POPULATION)
    return optuna.samplers.RandomSampler(seed=own)


def _ask(sampler: BaseSampler, space: Space, trials: Sequence[Trial]) -> tuple[Params, dict[str, Any]]:
    import optuna

    study = optuna.create_study(directions=["maximize", "maximize"], sampler=sampler)
    distributions = {key: parameter.distribution() for key, parameter in space.items()}
    study.add_trials([as_optuna(trial, space) for trial in trials])
    asked = study.ask(distributions)
    memory = study.get_trials(deepcopy=False)[-1].system_attrs
    return {key: space[key].value_of(asked.params[key]) for key in space}, dict(memory)


def as_optuna(trial: Trial, space: Space) -> FrozenTrial:
    """A trial as Optuna knows it. One that was pruned is dominated; what it had reached by then is no final accuracy, so it
    counts as worst of all instead of as what it would never have been.
    """
    import optuna

    states = optuna.trial.TrialState
    failed = {FAILED: states.FAIL, PASSED: states.FAIL}  # one that was passed on is no trial of its options alone
    state = {RUNNING: states.RUNNING, FINISHED: states.COMPLETE, PRUNED: states.COMPLETE, **failed}[trial.state]
    values = {FINISHED: trial.point, PRUNED: (0.0, 0.0)}.get(trial.state)
    if trial.state == FINISHED and values is None:  # nothing was measured
        state = states.FAIL
    return optuna.trial.create_trial(
        state=state,
        values=values,
        params={key: space[key].drawn(value) for key, value in trial.params.items()},
        distributions={key: parameter.distribution() for key, parameter in space.items()},
        system_attrs=trial.memory if trial.state != PASSED else {},
    )
