"""Orders that are computed place by place are permutations, and as random as drawn ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afa_dist.data import order
from afa_dist.data.order import LISTED, _computed, shuffled


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5000), st.integers(0, 2**63))
def test_every_row_comes_once(count, seed):
    assert np.array_equal(np.sort(_computed(seed, count, np.arange(count))), np.arange(count))


def test_small_orders_are_those_of_numpy_and_large_ones_are_computed(monkeypatch):
    places = np.array([0, 5, 17, LISTED - 1])
    drawn = np.random.Generator(np.random.Philox(order.derive_seed("order", 3, 2))).permutation(LISTED)
    assert np.array_equal(shuffled("order", 3, 2, LISTED, places), drawn[places])
    monkeypatch.setattr(order, "_listed", None)
    large = shuffled("order", 3, 2, 20_000_000, np.arange(1000))
    assert len(set(large.tolist())) == 1000 and large.max() > 19_000_000
    assert not np.array_equal(large, shuffled("order", 3, 3, 20_000_000, np.arange(1000)))


@pytest.mark.parametrize("count", [97, 1000])
def test_every_row_is_as_likely_at_every_place(count):
    """Chi-squared of the row at place 0, of two places' difference, and of neighbours' order, over 5,000 seeds."""
    seeds = 5_000
    first = np.array([_computed(seed, count, np.array([0, 1])) for seed in range(seeds)])
    bins = 10
    expected = seeds / bins
    for values in (first[:, 0], first[:, 1], (first[:, 1] - first[:, 0]) % count):
        edges = np.linspace(0, count, bins + 1)
        counts = np.histogram(values, edges)[0]
        sizes = np.histogram(np.arange(count), edges)[0] * bins / count
        assert ((counts - expected * sizes) ** 2 / (expected * sizes)).sum() < 36  # one in 30,000 for 9 degrees of freedom
    assert abs((first[:, 0] < first[:, 1]).mean() - 0.5) < 4 * 0.5 / seeds**0.5
