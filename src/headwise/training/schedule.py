"""Learning-rate schedules, by name: pure functions from a step to a multiplier of the optimizer's rate."""

from __future__ import annotations

import math
from collections.abc import Callable

from headwise.config import ScheduleConfig
from headwise.errors import choose


def cosine(progress: float, floor: float) -> float:
    """From 1 down to `floor` along half a cosine (Loshchilov & Hutter 2017), progress from 0 to 1."""
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def constant(progress: float, floor: float) -> float:
    """1 throughout."""
    return 1.0


SCHEDULES: dict[str, Callable[[float, float], float]] = {"cosine": cosine, "constant": constant}


def multiplier(step: int, config: ScheduleConfig, max_steps: int) -> float:
    """The rate's multiplier for optimizer step `step`, counted from 0: a linear rise over the warmup, then the shape,
    which would reach its end at step `max_steps`. Steps beyond that keep the end's."""
    shape = choose("schedule.kind", config.kind, SCHEDULES)
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, max_steps - config.warmup_steps)
    return shape(min(progress, 1.0), config.min_lr_ratio)
