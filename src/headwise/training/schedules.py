"""Learning-rate schedules, by name: pure functions from a step to a multiplier of the optimizer's rates."""

from __future__ import annotations

import math
from collections.abc import Callable

from headwise.config import ScheduleConfig
from headwise.errors import choose


def cosine(progress: float, config: ScheduleConfig) -> float:
    """From 1 down to the floor along half a cosine (Loshchilov & Hutter 2017)."""
    floor = config.min_lr_ratio
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def linear(progress: float, config: ScheduleConfig) -> float:
    """From 1 straight down to the floor."""
    return 1 + (config.min_lr_ratio - 1) * progress


def wsd(progress: float, config: ScheduleConfig) -> float:
    """Warmup, stable, decay (Hu et al. 2024): 1, then straight down to the floor over the last part."""
    decayed = (progress - (1 - config.decay_fraction)) / config.decay_fraction
    return linear(max(0.0, decayed), config)


def constant(progress: float, config: ScheduleConfig) -> float:
    """1 throughout."""
    return 1.0


SCHEDULES: dict[str, Callable[[float, ScheduleConfig], float]] = {
    "cosine": cosine,
    "linear": linear,
    "wsd": wsd,
    "constant": constant,
}


def multiplier(step: int, config: ScheduleConfig, max_steps: int) -> float:
    """The rates' multiplier for optimizer step `step`, counted from 0: a linear rise over the warmup, then the shape,
    which would reach its end at step `max_steps`. Steps beyond that keep the end's."""
    shape = choose("schedule.kind", config.kind, SCHEDULES)
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, max_steps - config.warmup_steps)
    return shape(min(progress, 1.0), config)
