"""Comparison of two models image by image."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from afa_dist.evaluation.pairs import compare_pairs


def cells(both, first, second, none):
    """Two columns with these numbers of images in each cell."""
    rows = [(True, True)] * both + [(True, False)] * first + [(False, True)] * second + [(False, False)] * none
    table = np.array(rows, dtype=bool).reshape(-1, 2)
    return table[:, 0], table[:, 1]


@given(both=st.integers(0, 50), first=st.integers(0, 60), second=st.integers(0, 60), none=st.integers(1, 50))
def test_counts_are_those_of_the_table_and_the_test_is_the_binomial_one(both, first, second, none):
    found = compare_pairs(*cells(both, first, second, none))
    assert (found.images, found.only_first, found.only_second) == (both + first + second + none, first, second)
    assert found.difference == pytest.approx((first - second) / found.images)
    want = binomtest(first, first + second).pvalue if first + second else 1.0
    assert found.p_value == pytest.approx(want, abs=1e-12)
    low, high = found.interval_95
    assert -1 <= low <= high <= 1
    other = compare_pairs(*cells(both, second, first, none))
    assert (other.difference, other.interval_95) == (-found.difference, pytest.approx((-high, -low)))


@pytest.mark.parametrize(("first", "second"), [(600, 500), (700, 400), (510, 500), (5000, 4800)])
def test_many_images_are_tested_as_few_are(first, second):
    found = compare_pairs(*cells(10, first, second, 10))
    assert found.p_value == pytest.approx(binomtest(first, first + second).pvalue, rel=0.02)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    """2,000 draws of 200 images; one model stands 60 %, the other 50 %, and they agree more than by chance."""
    random = np.random.Generator(np.random.Philox(0))
    inside = 0
    for _ in range(2000):
        cell = random.choice(4, size=200, p=[0.45, 0.15, 0.05, 0.35])
        low, high = compare_pairs(cell <= 1, (cell == 0) | (cell == 2)).interval_95
        inside += low <= 0.10 <= high
    assert 0.935 < inside / 2000 < 0.975
