"""Learning-rate schedules, by name: functions from the progress after the warmup, 0 to 1, to a multiplier of the
optimizer's learning rates."""

from __future__ import annotations

import math
from collections.abc import Callable

from headwise.config import ScheduleConfig
from headwise.errors import choose
from headwise.registry import table


def cosine(progress: float, config: ScheduleConfig) -> float:
    """Return a multiplier that falls from 1 to min_lr_ratio along half a cosine (Loshchilov & Hutter 2017)."""
    floor = config.min_lr_ratio
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def linear(progress: float, config: ScheduleConfig) -> float:
    """Return a multiplier that falls linearly from 1 to min_lr_ratio."""
    return 1 + (config.min_lr_ratio - 1) * progress


def wsd(progress: float, config: ScheduleConfig) -> float:
    """Return 1 until the last decay_fraction of the run, in which the multiplier falls linearly to min_lr_ratio:
    warmup, stable, decay (Hu et al. 2024)."""
    decayed = (progress - (1 - config.decay_fraction)) / config.decay_fraction
    return linear(max(0.0, decayed), config)


def constant(progress: float, config: ScheduleConfig) -> float:
    """Return 1."""
    return 1.0


Schedule = Callable[[float, ScheduleConfig], float]
OWN: dict[str, Schedule] = {"cosine": cosine, "linear": linear, "wsd": wsd, "constant": constant}
SCHEDULES = table("schedule", OWN)


def multiplier(step: int, config: ScheduleConfig, max_steps: float) -> float:
    """Return the multiplier for optimizer step `step`, counted from 0: a linear rise over warmup_steps, then the
    schedule's shape, which ends at `max_steps` and keeps its last value from there on."""
    shape = choose("schedule.kind", config.kind, SCHEDULES)
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, max_steps - config.warmup_steps)
    return shape(min(progress, 1.0), config)
