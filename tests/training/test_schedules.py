"""Schedules: pure functions of the step, with the values one expects at the corners."""

import pytest
import torch

from headwise.config import ScheduleConfig
from headwise.training.schedules import multiplier

COSINE = ScheduleConfig(kind="cosine", warmup_steps=10, min_lr_ratio=0.1)


@pytest.mark.parametrize(
    ("step", "value"), [(0, 0.1), (4, 0.5), (9, 1.0), (10, 1.0), (55, 0.55), (100, 0.1), (999, 0.1)]
)
def test_cosine_rises_falls_and_stays(step, value):
    assert multiplier(step, COSINE, max_steps=100) == pytest.approx(value)


def test_cosine_is_that_of_torch_after_the_warmup():
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=90, eta_min=0.1)
    for step in range(10, 100):
        assert multiplier(step, COSINE, 100) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-6)
        optimizer.step()
        theirs.step()


def test_linear_falls_straight_to_the_floor():
    config = ScheduleConfig(kind="linear", warmup_steps=10, min_lr_ratio=0.1)
    assert [multiplier(step, config, 100) for step in (9, 10, 55, 100)] == pytest.approx([1.0, 1.0, 0.55, 0.1])


def test_wsd_stays_until_its_last_part_and_then_falls_straight():
    config = ScheduleConfig(kind="wsd", warmup_steps=10, min_lr_ratio=0.0, decay_fraction=0.5)
    assert [multiplier(step, config, 110) for step in (4, 10, 60, 85, 110)] == pytest.approx([0.5, 1, 1, 0.5, 0])


def test_constant_stays_after_its_warmup():
    config = ScheduleConfig(kind="constant", warmup_steps=2)
    assert [multiplier(step, config, 5) for step in range(5)] == [0.5, 1.0, 1.0, 1.0, 1.0]


def test_no_warmup_and_a_single_step_work():
    assert multiplier(0, ScheduleConfig(warmup_steps=0), 1) == 1.0
