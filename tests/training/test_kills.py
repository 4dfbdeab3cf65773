"""Killed at random and started again, a run ends bit for bit as one that was left alone (jobs/drill.py at length)."""

import random

import pytest

from afa_dist.cli.drill import outcome
from afa_dist.cli.drill_attempt import Site
from afa_dist.cli.drill_round import run_once, run_struck

KINDS = {"process": ["killed"], "torchrun": ["all killed", "a worker killed"], "store": ["machine lost"]}


@pytest.mark.parametrize(
    ("job", "way", "seed"),
    [("pretrain", "process", 0), ("pretrain", "torchrun", 1), ("pretrain", "store", 2), ("generate", "process", 3)],
)
def test_three_random_kills_leave_no_trace(job, way, seed, tmp_path, monkeypatch):
    """Three SIGKILLs each, to everything or to one of two workers, or the loss of a machine, at random steps."""
    kinds = KINDS[way]
    from afa_dist.cli import drill_round

    monkeypatch.setitem(drill_round.BLOWS, way, {kind: drill_round.BLOWS[way][kind] for kind in kinds})
    rng = random.Random(seed)
    monkeypatch.setattr(rng, "randint", lambda low, high: high)
    address = f"file://{tmp_path}/store" if way == "store" else ""
    whole, struck = (Site(way, tmp_path / name, address and f"{address}/{name}", job) for name in ("whole", "struck"))
    run_once(whole)
    blows = run_struck(struck, 3, rng)
    assert len(blows) == 3
    weights, history = outcome(struck.directory)
    wanted_weights, wanted_history = outcome(whole.directory)
    assert weights == wanted_weights
    assert history == wanted_history
    assert len(history) > 48
