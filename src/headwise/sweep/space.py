"""The search space of a sweep: keys of the configuration, each with its choices or its range.

    space = read_space({"optimizer.lr": {"low": 1e-4, "high": 1e-2, "log": True}, "model.n_layer": [2, 4]})
    overrides = [override for dimension in space for override in dimension.suggest(trial)]

A choice that is a mapping sets several keys at once; the key of such a list of choices is any name. Keys and
values are checked in search.py, where Hydra composes every choice and every end of a range before the first trial.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from optuna import Trial
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from headwise.config import TrainConfig
from headwise.config_errors import composition_error
from headwise.config_keys import schema_fields
from headwise.errors import UserError, require
from headwise.sweep.multirun import quoted

SET_BY_SWEEP = ("run_dir", "resume", "estimate")  # keys that cannot vary
Plain = str | int | float | bool | None


def override_of(key: str, value: Plain) -> str:
    """Return key=value as on the command line."""
    if isinstance(value, str):
        return f"{key}={value if value.isidentifier() else quoted(value)}"
    return f"{key}={'null' if value is None else str(value).lower() if isinstance(value, bool) else value}"


@dataclass
class Range:
    """A range as it is given in a space."""

    low: float = MISSING
    high: float = MISSING
    log: bool = False
    step: float | None = None


@dataclass
class Dimension:
    """A key that varies: what Optuna draws for it, and the overrides that a drawn value stands for."""

    key: str
    distribution: CategoricalDistribution | IntDistribution | FloatDistribution
    choices: dict[Plain, list[str]] = field(default_factory=dict)  # value -> overrides; empty for a range

    def suggest(self, trial: Trial) -> list[str]:
        """Return the overrides of a trial, which Optuna draws unless the trial has them already."""
        drawn = self.distribution
        if isinstance(drawn, CategoricalDistribution):
            return self.choices[trial.suggest_categorical(self.key, drawn.choices)]
        if isinstance(drawn, IntDistribution):
            value: float = trial.suggest_int(self.key, drawn.low, drawn.high, step=drawn.step, log=drawn.log)
        else:
            value = trial.suggest_float(self.key, drawn.low, drawn.high, step=drawn.step, log=drawn.log)
        return [override_of(self.key, value)]

    def ends(self) -> list[list[str]]:
        """Return the overrides of every choice, or of the lowest and the highest number."""
        if isinstance(self.distribution, CategoricalDistribution):
            return list(self.choices.values())
        return [[override_of(self.key, number)] for number in (self.distribution.low, self.distribution.high)]

    def config_keys(self) -> list[str]:
        """Return the configuration's keys that are set."""
        return list(dict.fromkeys(override.split("=")[0] for end in self.ends() for override in end))

    def values(self) -> list[Plain] | None:
        """Return every value that Optuna can draw; None for a range without steps."""
        drawn = self.distribution
        if isinstance(drawn, CategoricalDistribution):
            return list(drawn.choices)
        if drawn.step is None or drawn.log:
            return None
        return [drawn.low + i * drawn.step for i in range(round((drawn.high - drawn.low) / drawn.step) + 1)]


def read_space(space: Mapping[str, Any]) -> list[Dimension]:
    """Return the dimensions of a space, without keys whose value is null. Raise UserError."""
    dimensions = [
        read_choices(key, given) if isinstance(given, list) else Dimension(key, read_range(key, given))
        for key, given in space.items()
        if given is not None
    ]
    require(bool(dimensions), "sweep.space is empty; choose a space (--help lists them) or give sweep.space=...")
    keys = [key for dimension in dimensions for key in dimension.config_keys()]
    for key in keys:
        require(keys.count(key) == 1, f"sweep.space: {key} is varied twice")
        require(key not in SET_BY_SWEEP, f"sweep.space: {key} cannot vary; leave it out")
    return dimensions


def read_choices(key: str, given: list) -> Dimension:
    """Return a list of choices as a dimension. Raise UserError."""
    require(bool(given), f"sweep.space: {key}=[] holds no choices")
    require(len(set(map(repr, given))) == len(given), f"sweep.space: {key}={given} holds a choice twice")
    choices: dict[Plain, list[str]] = {}
    for choice in given:
        several = choice if isinstance(choice, Mapping) else {key: choice}
        require(bool(several), f"sweep.space: {key}={given}: {{}} sets no key")
        for one, value in several.items():
            require(isinstance(value, Plain), f"sweep.space: {one}={value} must be a plain value")
        # A mapping is named by its overrides: n_layer=4 n_embd=32
        name = " ".join(f"{one.split('.')[-1]}={value}" for one, value in several.items())
        choices[name if several is choice else choice] = [override_of(one, value) for one, value in several.items()]
    return Dimension(key, CategoricalDistribution(list(choices)), choices)


def read_range(key: str, given: Any) -> IntDistribution | FloatDistribution:
    """Return a range given as {low, high, log, step}. Raise UserError. `high` becomes the last of the steps."""
    form = "a list of choices, or {low: ..., high: ...} with log or step"
    require(isinstance(given, Mapping), f"sweep.space: {key}={given} must be {form}")
    try:
        limits = cast(Range, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Range), given)))
    except OmegaConfBaseException as error:
        raise UserError(f"sweep.space: {key}: {composition_error(error, Range, [])}; give {form}") from error
    numbers = [limits.low, limits.high, 1 if limits.step is None else limits.step]
    require(all(map(math.isfinite, numbers)), f"sweep.space: {key}={given}: low, high and step must be finite")
    schema = dict(schema_fields(TrainConfig()))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*not divisible by `step`")  # Optuna then lowers `high`
            if key not in schema or "float" in str(schema[key].type):
                return FloatDistribution(limits.low, limits.high, log=limits.log, step=limits.step)
            whole = all(number == int(number) for number in numbers)
            require(whole, f"{key} takes whole numbers, or a list of choices")
            low, high, step = map(int, numbers)
            return IntDistribution(low, high, log=limits.log, step=step)
    except ValueError as error:
        raise UserError(f"sweep.space: {key}={given}: {error}") from error


def combinations(space: list[Dimension]) -> int | None:
    """Return the number of combinations; None if a range has no steps."""
    values = [dimension.values() for dimension in space]
    return None if None in values else math.prod(len(numbers or []) for numbers in values)


def grid(space: list[Dimension]) -> list[dict[str, Plain]]:
    """Return every combination, as Optuna's parameters. Raise UserError for a range without steps."""
    values = []
    for dimension in space:
        numbers = dimension.values()
        needs = "sweep.sampler=grid needs a list of choices, or a step"
        require(numbers is not None, f"sweep.space: {dimension.key}: {needs}")
        values.append(numbers or [])
    keys = [dimension.key for dimension in space]
    return [dict(zip(keys, point, strict=True)) for point in itertools.product(*values)]
