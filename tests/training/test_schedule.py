"""Learning rate and attack radius as functions of the step."""

import pytest

from afa_dist.config import ScheduleConfig, TrainAttackConfig
from afa_dist.training.schedule import Schedule, attack_eps

STEPS = 50


def test_warms_up_to_the_peak_and_ends_near_zero():
    config = ScheduleConfig(epochs=10, batch_size=8, warmup=0.2)
    schedule = Schedule(config, peak_lr=0.4, steps_per_epoch=5)
    lrs = [schedule.lr(step) for step in range(STEPS)]
    assert lrs[:11] == sorted(lrs[:11])
    assert lrs[0] > 0
    assert lrs[10] == max(lrs) == pytest.approx(0.4)
    assert lrs[10:] == sorted(lrs[10:], reverse=True)
    assert lrs[30] == pytest.approx(0.2)  # half-way down the cosine
    assert 0 < lrs[-1] < 0.004


def test_eps_grows_linearly_and_the_step_with_it():
    attack = TrainAttackConfig(eps=0.2, warmup=0.4, step_size=0.05)
    at = {step: attack_eps(attack, step, STEPS) for step in (0, 10, 20, 49)}
    assert at[0] == 0
    assert at[10] == pytest.approx(0.1)
    assert at[20] == at[49] == 0.2
    assert attack.scaled_step(at[10]) == pytest.approx(0.025)
    assert attack_eps(TrainAttackConfig(eps=0.2), 0, STEPS) == 0.2
    assert TrainAttackConfig(eps=0.2).scaled_step(0.2) == pytest.approx(0.05)  # step_size 0: a quarter of eps
