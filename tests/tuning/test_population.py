"""Population based training: the worst take over from the best, whatever is killed, and weights go on as they were."""

import dataclasses

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from afa_dist.config import (
    ClassifierAttackConfig,
    FinetuneRun,
    ModelConfig,
    ScheduleConfig,
    TrackingConfig,
    ValidationConfig,
)
from afa_dist.config.tune import PopulationConfig, PruningConfig, TuneConfig
from afa_dist.distributed import World
from afa_dist.errors import Stopped
from afa_dist.training.initial import take_over
from afa_dist.training.job import train
from afa_dist.training.run_dir import RunDirectory
from afa_dist.training.warned import Warnings
from afa_dist.tuning.parameters import Choice, Range
from afa_dist.tuning.population import Population, lineage, ranked_by_fronts
from afa_dist.tuning.pruning import Rungs
from afa_dist.tuning.record import FAILED, FINISHED, PASSED, TrialStore

SPACE = {"x": Range(0.0, 1.0), "n": Range(1, 9, whole=True), "c": Choice(("a", "b", "c"))}
NONE = PruningConfig(rule="none")
FACTS = {"seconds": 1.0, "epochs": 2.0}


def population_in(folder, size=6):
    return Population(
        config=TuneConfig(space="s", search="pbt", pruning=NONE, population=PopulationConfig(size=size, interval=2)),
        space=SPACE,
        store=TrialStore(folder),
        rungs=Rungs.of(NONE, 8),
        seed=1,
        epochs=7,
    )


def end(search, trial):
    """A trial comes to the end of its generation, or of its training; the larger x, the more robust."""
    if trial.params["x"] > 0.95:
        search.fail(trial.number, "diverged")
    elif trial.memory["until"]:
        search.pass_on(trial.number, 0.9, trial.params["x"], FACTS)
    else:
        search.finish(trial.number, 0.9, trial.params["x"], FACTS)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_population_that_is_killed_and_ends_in_any_order_is_the_same(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("population")

    def run(store, disturbed):
        search, running = population_in(store), []
        while True:
            while (trial := search.next()) is not None:
                running.append(trial.number)
                if not disturbed:
                    end(search, search.trials[running.pop()])
            if not running:
                assert not search.waits
                break
            assert search.waits == (len(search.trials) < search.total)
            end(search, search.trials[running.pop(data.draw(st.integers(0, len(running) - 1)))])
            if data.draw(st.booleans(), label="killed"):
                search, running = population_in(store), []
        return [(t.params, t.state, t.memory, t.clean_acc, t.robust_acc) for t in search.trials]

    assert run(folder / "disturbed", True) == run(folder / "undisturbed", False)


def test_the_worst_go_on_from_the_best_with_options_nearby(tmp_path):
    search = population_in(tmp_path)
    while (trial := search.next()) is not None:
        end(search, trial)
    trials, size = search.trials, 6
    assert len(trials) == 24
    assert {t.state for t in trials[:18]} <= {PASSED, FAILED} and {t.state for t in trials[18:]} <= {FINISHED, FAILED}
    for generation in range(1, 4):
        before = trials[(generation - 1) * size : generation * size]
        alive = sorted((t for t in before if t.state == PASSED), key=lambda t: -t.robust_acc)
        for member, trial in enumerate(trials[generation * size : (generation + 1) * size]):
            parent = trials[trial.memory["parent"]]
            assert parent.state == PASSED
            own = before[member]
            if own in alive[:2]:
                assert parent is own and trial.params == own.params
            if own.state == FAILED or own in alive[-2:]:
                assert parent in alive[:2]
            assert 0 <= trial.params["x"] <= 1 and trial.params["n"] in range(1, 10) and trial.params["c"] in "abc"
    assert max(t.robust_acc or 0 for t in trials[18:]) >= max(t.robust_acc or 0 for t in trials[:6])
    line = lineage(trials[-1], trials)
    assert [t.number // size for t in line] == [0, 1, 2, 3]


def test_members_are_ranked_front_by_front():
    points = [(0.9, 0.1), (0.5, 0.5), (0.8, 0.05), (0.4, 0.4), (0.1, 0.9)]
    assert ranked_by_fronts(points, sum) == [0, 4, 1, 2, 3] or set(ranked_by_fronts(points, sum)[:3]) == {0, 1, 4}
    assert ranked_by_fronts(points, sum)[3:] == [2, 3]


def test_training_that_is_taken_over_goes_on_bit_for_bit(digits, tmp_path):
    """With the same options, two members one after the other are one run."""
    run = FinetuneRun(
        mode="full",
        model=ModelConfig(width=8),
        attack=ClassifierAttackConfig(eps=0.1, steps=1),
        schedule=ScheduleConfig(epochs=4, batch_size=64, warmup=0.1),
        validation=ValidationConfig(steps=1),
        tracking=TrackingConfig(tensorboard=False),
    )
    few = dataclasses.replace(digits, train=digits.train.subset(range(256)), held_out=digits.held_out.subset(range(64)))

    def trained(name, parent=None, until=0):
        directory = RunDirectory(tmp_path / name)
        if parent is not None:
            take_over(parent.path, directory)
        directory.create(run, {"start": name})
        epochs = []
        warned = Warnings(lambda: "over" if until and epochs and epochs[-1] >= until else "")
        try:
            train(run, few, directory, World(), lambda row: epochs.append(row["epoch"]), warned)
        except Stopped:
            assert epochs[-1] == until
        return directory

    whole = trained("whole")
    second = trained("second", trained("first", until=2))
    one, other = (directory.checkpoints.newest() for directory in (whole, second))
    assert one.step == other.step == 16
    for tensors in ("model", "optimiser"):
        for name, value in getattr(one, tensors).items():
            assert torch.equal(value, getattr(other, tensors)[name]), name
    assert [row["epoch"] for row in second.metrics() if row["phase"] == "validation"] == [3, 4]
