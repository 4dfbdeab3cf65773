"""Fronts and hypervolume against their definitions, and against Optuna's."""

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna._hypervolume import compute_hypervolume

from afa_dist.tuning.front import dominates, front_of, hypervolume, knee_of

COORDINATE = st.integers(0, 12).map(lambda n: n / 12)  # coarse: points that share a coordinate are the hard ones
POINTS = st.lists(st.tuples(COORDINATE, COORDINATE), max_size=10)


@given(points=POINTS)
def test_the_front_is_what_no_other_point_dominates(points):
    by_definition = [
        i
        for i, p in enumerate(points)
        if not any(q[0] >= p[0] and q[1] >= p[1] and (q[0] > p[0] or q[1] > p[1]) for q in points)
    ]
    front = front_of(points)
    assert sorted(front) == by_definition
    assert [points[i][0] for i in front] == sorted(points[i][0] for i in front)
    assert not any(dominates(points[j], points[i]) for i in front for j in range(len(points)))


@given(points=POINTS)
def test_the_hypervolume_is_the_share_of_the_square_that_lies_below(points):
    cells = [(x + 0.5, y + 0.5) for x in range(12) for y in range(12)]
    below = sum(any(px * 12 > x and py * 12 > y for px, py in points) for x, y in cells)
    assert hypervolume(points) == pytest.approx(below / 144)


@given(points=POINTS.filter(bool))
def test_the_hypervolume_is_optunas(points):
    import numpy as np

    losses = -np.array(points)
    assert hypervolume(points) == pytest.approx(compute_hypervolume(losses, np.zeros(2)))
    study = optuna.create_study(directions=["maximize", "maximize"])
    study.add_trials([optuna.trial.create_trial(values=point) for point in points])
    assert sorted(front_of(points)) == sorted(trial.number for trial in study.best_trials)


@given(points=POINTS.filter(bool))
def test_the_knee_lies_on_the_front_and_beyond_its_chord_where_there_is_room(points):
    knee = knee_of(points)
    front = front_of(points)
    assert knee in front
    first, last = points[front[0]], points[front[-1]]

    def beyond(p):  # twice the area of the triangle with the chord: positive on the side of (1, 1)
        return (last[0] - first[0]) * (p[1] - first[1]) - (last[1] - first[1]) * (p[0] - first[0])

    assert beyond(points[knee]) >= -1e-12 or all(beyond(points[i]) <= 1e-12 for i in front)
    assert beyond(points[knee]) == pytest.approx(max(beyond(points[i]) for i in front)) or beyond(points[knee]) <= 1e-12


@pytest.mark.parametrize(
    ("points", "knee"),
    [
        ([], None),
        ([(0.9, 0.1)], 0),
        ([(0.9, 0.5), (0.6, 0.6)], 0),  # no chord to lie beyond: the greatest product
        ([(0.99, 0.1), (0.95, 0.6), (0.5, 0.65)], 1),
    ],
)
def test_knees_one_would_choose(points, knee):
    assert knee_of(points) == knee


def test_a_margin_counts_in_both():
    assert dominates((0.9, 0.5), (0.85, 0.45), 0.05 - 1e-9)
    assert not dominates((0.9, 0.5), (0.85, 0.46), 0.05)
    assert not dominates((0.9, 0.5), (0.9, 0.1), 0.05)
