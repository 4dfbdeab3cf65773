"""The course of a search: whatever happens, and however often it is killed, trials that ended stay ended, none runs
twice, and what is proposed is what would have been proposed without the kills."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afa_dist.config.requirement import parse_requirement
from afa_dist.config.tune import PruningConfig, TuneConfig
from afa_dist.errors import UserError
from afa_dist.tuning.choice import found_in
from afa_dist.tuning.parameters import Range
from afa_dist.tuning.pruning import Rungs
from afa_dist.tuning.record import FAILED, FINISHED, PRUNED, RUNNING, TrialStore
from afa_dist.tuning.search import OVER_BUDGET, Search

SPACE = {"x": Range(0.0, 1.0), "y": Range(0.1, 10.0, log=True)}
PARETO = PruningConfig(rungs=(0.25, 0.5), margin=0.05)
FACTS = {"seconds": 1.0, "epochs": 8.0}


def search_in(folder, pruning=PARETO, **options):
    config = TuneConfig(space="s", pruning=pruning, **{"max_trials": 8, **options})
    return Search(config=config, space=SPACE, store=TrialStore(folder), rungs=Rungs.of(pruning, 8), seed=3)


def accuracies(trial):
    return 1 - trial.params["x"] / 2, trial.params["x"]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_search_that_is_killed_again_and_again_is_the_same_search(data, tmp_path_factory):
    """One trial at a time; a kill forgets all but the files. Trials fail or end as their options say."""
    folder = tmp_path_factory.mktemp("search")

    def run(store, kills):
        search, ended = search_in(store), []
        while trial := search.next():
            if kills and data.draw(st.booleans(), label="killed before it ends"):
                before = {t.number: t.state for t in search.trials}
                search = search_in(store)
                assert {t.number: t.state for t in search.trials} == before
                continue
            if trial.params["x"] > 0.8:
                search.fail(trial.number, "diverged")
            else:
                why = search.measured(trial.number, 2.0, 2.0, accuracies(trial))
                if why:
                    search.prune(trial.number, FACTS)
                else:
                    search.finish(trial.number, *accuracies(trial), FACTS)
            ended.append(trial.number)
            if kills and data.draw(st.booleans(), label="killed after it ended"):
                search = search_in(store)
        assert len(ended) == len(set(ended)) == 8
        return [(t.params, t.state, t.point, t.order) for t in search.trials]

    assert run(folder / "killed", kills=True) == run(folder / "undisturbed", kills=False)


def test_a_dominated_trial_ends_whichever_came_first(tmp_path):
    search = search_in(tmp_path)
    weak, strong, other = (search.next() for _ in range(3))
    assert search.measured(weak.number, 2.0, 2.0, (0.5, 0.2)) == ""  # nobody to compare with
    assert search.measured(strong.number, 2.0, 2.0, (0.6, 0.3)) == ""
    assert search.measured(other.number, 2.0, 2.0, (0.58, 0.1)) == ""  # less than the margin in one accuracy
    why = search.measured(weak.number, 3.0, 3.0, (0.55, 0.25))
    assert "at 2 epochs trial 0001 had 60.0 / 30.0 %, this one 50.0 / 20.0 %" in why
    search.prune(weak.number, FACTS)
    assert (weak.state, weak.reason) == (PRUNED, why)
    again = search_in(tmp_path)
    assert again.trials[0].reason == why
    assert again.trials[0].point is None  # what it had reached is no result
    assert found_in(again.trials, None) is None


def test_halving_lets_a_third_go_on(tmp_path):
    search = search_in(tmp_path, PruningConfig(rule="asha", rungs=(0.25,), weight=0.5, reduction=3))
    trials = [search.next() for _ in range(6)]
    verdicts = [
        bool(search.measured(t.number, 2.0, 2.0, (0.5, share)))
        for t, share in zip(trials, (3, 2, 4, 1, 3.5, 5), strict=True)
    ]
    assert verdicts == [False, True, False, True, True, False]


def test_time_is_counted_over_all_starts(tmp_path):
    search = search_in(tmp_path, budget_hours=1.0)
    assert search.next() is not None
    again = search_in(tmp_path, budget_hours=1.0)
    again.seconds_before = 3601.0
    assert again.next() is None
    assert again.stopping == OVER_BUDGET
    assert again.trials[0].state == RUNNING


def test_options_that_do_not_go_together_are_recorded_and_passed_over(tmp_path):
    search = search_in(tmp_path)
    search.refusal = lambda params, name: "batch too small" if name == "0000" else ""
    assert search.next().number == 1
    assert search.trials[0].state == FAILED
    assert "batch too small" in search.trials[0].reason


def test_what_is_chosen(tmp_path):
    search = search_in(tmp_path)
    points = [(0.99, 0.1), (0.95, 0.6), (0.5, 0.65), (0.94, 0.59), (0.96, 0.3)]
    for point in points:
        search.finish(search.next().number, *point, FACTS)
    for text, chosen in (("clean>=0.96", 4), ("robust >= 0.62", 2), ("clean>=0.995", None), ("", None)):
        found = found_in(search.trials, parse_requirement(text) if text else None)
        assert [t.number for t in found.front] == [2, 1, 4, 0]
        assert found.knee.number == 1
        assert (found.required and found.required.number) == chosen
    assert parse_requirement("clean>0.8") is parse_requirement("accuracy>=1") is parse_requirement("clean>=80") is None


@pytest.mark.parametrize("damage", ["", "{", '{"number": 0}', "[]"])
def test_a_damaged_record_is_named(damage, tmp_path):
    search = search_in(tmp_path)
    search.next()
    (tmp_path / "0000" / "trial.json").write_text(damage)
    with pytest.raises(UserError, match=r"0000/trial.json is damaged"):
        search_in(tmp_path)


def test_a_lost_record_is_named(tmp_path):
    search = search_in(tmp_path)
    search.next()
    search.next()
    (tmp_path / "0000" / "trial.json").unlink()
    with pytest.raises(UserError, match="lacks trial 0000"):
        search_in(tmp_path)


def test_unknown_keys_of_a_later_version_are_passed_over(tmp_path):
    search = search_in(tmp_path)
    trial = search.next()
    search.finish(trial.number, 0.9, 0.5, FACTS)
    path = tmp_path / "0000" / "trial.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "later": 1}))
    assert search_in(tmp_path).trials[0].state == FINISHED


def test_a_verdict_outlives_the_driver(tmp_path):
    """Of halving it depends on the moment, so that it could not be found again."""
    asha = PruningConfig(rule="asha", rungs=(0.25,), reduction=3)
    search = search_in(tmp_path, asha)
    good, bad = search.next(), search.next()
    assert search.measured(good.number, 2.0, 2.0, (0.5, 0.5)) == ""
    why = search.measured(bad.number, 2.0, 2.0, (0.5, 0.4))
    again = search_in(tmp_path, asha)
    assert again.measured(bad.number, 2.0, 2.0, (0.5, 0.4)) == why != ""


def test_only_what_was_measured_alike_is_compared_and_nothing_with_what_failed(tmp_path):
    search = search_in(tmp_path)
    trials = [search.next() for _ in range(4)]
    assert search.measured(trials[0].number, 2.0, 2.0, (0.9, 0.9), "finetune, PGD-10") == ""
    assert search.measured(trials[1].number, 2.0, 2.0, (0.5, 0.5), "finetune, PGD-5") == ""
    assert search.measured(trials[2].number, 2.0, 2.0, (0.8, 0.8), "pretrain, PGD-10") == ""
    assert "trial 0000" in search.measured(trials[3].number, 2.0, 2.0, (0.5, 0.5), "finetune, PGD-10")
    search.fail(trials[0].number, "diverged")
    again = search_in(tmp_path)
    other = again.next()
    while other.number < 4:
        other = again.next()
    assert again.measured(other.number, 2.0, 2.0, (0.5, 0.5), "finetune, PGD-10") == ""
