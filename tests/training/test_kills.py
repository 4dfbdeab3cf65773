"""Killed at random and started again, a run ends bit for bit as one that was left alone (jobs/drill.py at length)."""

import random

import pytest

from afa_dist.cli.drill import outcome
from afa_dist.cli.drill_round import run_once, run_struck


@pytest.mark.parametrize(("way", "seed"), [("process", 0), ("torchrun", 1)])
def test_three_random_kills_leave_no_trace(way, seed, tmp_path, monkeypatch):
    """Three SIGKILLs each, to everything or to one of two workers, at random steps."""
    kinds = {"process": ["killed"], "torchrun": ["all killed", "a worker killed"]}[way]
    from afa_dist.cli import drill_round

    monkeypatch.setitem(drill_round.BLOWS, way, {kind: drill_round.BLOWS[way][kind] for kind in kinds})
    rng = random.Random(seed)
    monkeypatch.setattr(rng, "randint", lambda low, high: high)
    run_once(way, tmp_path / "whole")
    blows = run_struck(way, tmp_path / "struck", 3, rng)
    assert len(blows) == 3
    weights, history = outcome(tmp_path / "struck")
    wanted_weights, wanted_history = outcome(tmp_path / "whole")
    assert weights == wanted_weights
    assert history == wanted_history
    assert len(history) > 48
