"""Who proposes options: again the same, never twice, always inside the space, and better than chance where there is more to
find."""

import dataclasses
import itertools

import pytest

from afa_dist.tuning.front import hypervolume
from afa_dist.tuning.parameters import Choice, Range
from afa_dist.tuning.record import FAILED, FINISHED, PRUNED, RUNNING, Trial
from afa_dist.tuning.sampling import propose, values_of

SPACE = {
    "a": Range(0.01, 1.0, log=True),
    "b": Range(1, 9, whole=True),
    "c": Choice(("x", "y", True)),
    "d": Range(0.1, 0.5, step=0.1),
}
SMALL = {"p": Choice((1, 2, 3)), "q": Range(0, 1, whole=True)}


def history(search, seed, count, space=SPACE, outcome=lambda n, params: (params["a"], 1 - params["a"])):
    """A search in which each trial ends before the next one begins."""
    trials = []
    for number in range(count):
        params, memory = propose(search, space, seed, trials)
        clean, robust = outcome(number, params)
        trials.append(
            Trial(
                number=number,
                params=params,
                state=FINISHED,
                order=number,
                clean_acc=clean,
                robust_acc=robust,
                memory=memory,
            )
        )
    return trials


@pytest.mark.parametrize("search", ["tpe", "nsga2", "random"])
def test_proposals_depend_on_the_seed_and_on_what_is_known_alone(search):
    first, again, other = history(search, 0, 16), history(search, 0, 16), history(search, 1, 16)
    assert [t.params for t in first] == [t.params for t in again]
    assert [t.params for t in first] != [t.params for t in other]
    for trial in first:
        a, b, c, d = trial.params.values()
        assert 0.01 <= a <= 1 and isinstance(b, int) and 1 <= b <= 9 and c in ("x", "y", True) and 0.1 <= d <= 0.5
    assert all(one != two for one, two in itertools.combinations([t.params for t in first], 2))


@pytest.mark.parametrize("search", ["tpe", "nsga2", "random", "grid"])
def test_a_small_space_is_tried_to_its_end_and_no_further(search):
    seen = []
    for number in range(9):
        proposal = propose(search, SMALL, 0, seen)
        if proposal is None:
            break
        seen.append(Trial(number=number, params=proposal[0], state=FINISHED, order=number, clean_acc=0.5, robust_acc=0.5))
    assert len(seen) == 6
    assert len({tuple(t.params.values()) for t in seen}) == 6


@pytest.mark.parametrize("search", ["tpe", "nsga2"])
def test_trials_of_all_states_are_taken_in(search):
    states = [RUNNING, FINISHED, PRUNED, FAILED]
    trials = [dataclasses.replace(t, state=states[t.number % 4]) for t in history(search, 0, 16)]
    params, _ = propose(search, SPACE, 0, trials)
    assert set(params) == set(SPACE)


@pytest.mark.parametrize("search", ["tpe", "nsga2"])
def test_a_sampler_finds_more_than_chance(search):
    """Two options trade two accuracies against each other; three more only do harm."""
    space = {name: Range(0.0, 1.0) for name in "xuvw"}

    def outcome(number, params):
        harm = sum((params[name] - 0.7) ** 2 for name in "uvw")
        return max(0.0, params["x"] - harm), max(0.0, 1 - params["x"] ** 2 - harm)

    areas = {
        name: [hypervolume([t.point for t in history(name, seed, 40, space, outcome)]) for seed in range(4)]
        for name in (search, "random")
    }
    assert sum(areas[search]) > sum(areas["random"])


@pytest.mark.parametrize("search", ["tpe", "random", "grid"])
@pytest.mark.parametrize(
    "steps", [Range(0.1, 0.5, step=0.1), Range(0.0, 16 / 255, step=1 / 255), Range(2, 14, step=3, whole=True)], ids=str
)
def test_ranges_in_steps_are_tried_to_their_end_too(search, steps):
    """Sums of steps differ in their last digit from multiples of them."""
    space, seen = {"s": steps}, []
    while (proposal := propose(search, space, 0, seen)) is not None:
        seen.append(Trial(number=len(seen), params=proposal[0], state=FINISHED, clean_acc=0.5, robust_acc=0.5))
        assert len(seen) <= 17
    assert sorted(t.params["s"] for t in seen) == values_of(steps)


def test_the_last_step_of_a_range_can_be_added_to_what_is_known():
    """16 x (1/255) and 16/255 differ in their last digit; Optuna once refused the one as beyond the other."""
    space = {"s": Range(0.0, 16 / 255, step=1 / 255), "t": Range(0.0, 1.0)}
    values = values_of(space["s"])
    trials = [
        Trial(number=n, params={"s": s, "t": 0.5}, state=FINISHED, clean_acc=0.5, robust_acc=0.5)
        for n, s in enumerate(values)
    ]
    for search in ("tpe", "nsga2", "random"):
        params, _ = propose(search, space, 0, trials)
        assert params["s"] in values
