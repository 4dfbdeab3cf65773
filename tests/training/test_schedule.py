"""Learning rate and attack radius as functions of the step."""

import pytest

from afa_dist.config import ScheduleConfig, TrainAttackConfig
from afa_dist.training.schedule import Schedule


def make(**attack):
    config = ScheduleConfig(epochs=10, batch_size=8, warmup=0.2)
    return Schedule(config, TrainAttackConfig(eps=0.2, **attack), peak_lr=0.4, steps_per_epoch=5)


def test_warms_up_to_the_peak_and_ends_near_zero():
    lrs = [make().lr(step) for step in range(50)]
    assert lrs[:11] == sorted(lrs[:11])
    assert lrs[0] > 0
    assert lrs[10] == max(lrs) == pytest.approx(0.4)
    assert lrs[10:] == sorted(lrs[10:], reverse=True)
    assert lrs[30] == pytest.approx(0.2)  # half-way down the cosine
    assert 0 < lrs[-1] < 0.004


def test_eps_grows_linearly_and_the_step_with_it():
    schedule = make(warmup=0.4, step_size=0.05)
    assert schedule.eps(0) == 0
    assert schedule.eps(10) == pytest.approx(0.1)
    assert schedule.eps(20) == schedule.eps(49) == 0.2
    assert schedule.attack.scaled_step(schedule.eps(10)) == pytest.approx(0.025)
    assert make().eps(0) == 0.2
    assert make().attack.scaled_step(0.2) == pytest.approx(0.05)  # step_size 0: a quarter of eps
