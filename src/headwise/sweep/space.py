"""The search space of a sweep: keys of the configuration, each with its choices or its range.

    space = read_space({"optimizer.lr": {"low": 1e-4, "high": 1e-2, "log": True}, "model.n_layer": [2, 4]})
    overrides = [override for dimension in space for override in dimension.suggest(trial)]

A choice that is a mapping sets several keys at once; the key of such a list of choices is any name.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from omegaconf import OmegaConf
from optuna import Trial
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from headwise.config import TrainConfig, dotted_keys, schema_fields
from headwise.errors import did_you_mean, require
from headwise.launch import CONFIGS
from headwise.sweep.multirun import quoted

RANGE = ("low", "high", "log", "step")
NEVER = ("run_dir", "resume", "estimate")  # keys that the sweep itself sets
Plain = str | int | float | bool | None


def override_of(key: str, value: Plain) -> str:
    """Return key=value as on the command line."""
    if isinstance(value, str):
        return f"{key}={value if value.isidentifier() else quoted(value)}"
    return f"{key}={'null' if value is None else str(value).lower() if isinstance(value, bool) else value}"


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

    def values(self) -> list[Plain] | None:
        """Return every value that Optuna can draw; None for a range without steps."""
        drawn = self.distribution
        if isinstance(drawn, CategoricalDistribution):
            return list(drawn.choices)
        if drawn.step is None or drawn.log:
            return None
        return [drawn.low + i * drawn.step for i in range(round((drawn.high - drawn.low) / drawn.step) + 1)]


def read_space(space: Mapping[str, Any]) -> list[Dimension]:
    """Return the dimensions of a space, without keys whose value is null. Raises UserError."""
    dimensions = [read_dimension(key, given) for key, given in space.items() if given is not None]
    require(bool(dimensions), "sweep.space is empty; choose a space (--help lists them) or give sweep.space=...")
    keys = [key for dimension in dimensions for key in keys_of(dimension)]
    twice = {key for key in keys if keys.count(key) > 1}
    require(not twice, f"sweep.space: {', '.join(sorted(twice))} is varied twice")
    return dimensions


def keys_of(dimension: Dimension) -> list[str]:
    """Return the configuration's keys that a dimension sets."""
    return list(dict.fromkeys(override.split("=")[0] for end in dimension.ends() for override in end))


def read_dimension(key: str, given: Any) -> Dimension:
    """Return one entry of a space. Raises UserError."""
    if not isinstance(given, list):
        return Dimension(key, read_range(key, given))
    require(bool(given), f"sweep.space: {key}=[] holds no choices")
    require(len(set(map(repr, given))) == len(given), f"sweep.space: {key}={given} holds a choice twice")
    if all(isinstance(choice, Mapping) for choice in given):  # each is named by its overrides: n_layer=4 n_embd=32
        names = [" ".join(f"{name.split('.')[-1]}={value}" for name, value in choice.items()) for choice in given]
    else:
        check_key(key)
        plain = all(isinstance(choice, Plain) for choice in given)
        require(plain, f"sweep.space: {key}={given} must be a list of plain values, or of mappings of keys to values")
        names, given = given, [{key: choice} for choice in given]
    choices: dict[Plain, list[str]] = {name: overrides_of(choice) for name, choice in zip(names, given, strict=True)}
    return Dimension(key, CategoricalDistribution(list(choices)), choices)


def overrides_of(choice: Mapping[str, Any]) -> list[str]:
    """Return a choice as overrides. Raises UserError."""
    require(bool(choice), "sweep.space: {} sets no key")
    for key, value in choice.items():
        check_key(key)
        require(isinstance(value, Plain), f"sweep.space: {key}={value} must be a plain value")
    return [override_of(key, value) for key, value in choice.items()]


def read_range(key: str, given: Any) -> IntDistribution | FloatDistribution:
    """Return a range given as {low, high, log, step}. Raises UserError. `high` becomes the last of the steps."""
    form = f"sweep.space: {key}={given} must be a list of choices, or {{low: ..., high: ...}} with log or step"
    require(isinstance(given, Mapping), form)
    for name in given:
        require(name in RANGE, f"sweep.space: {key}.{name} is none of {', '.join(RANGE)}{did_you_mean(name, RANGE)}")
    check_key(key)
    low, high, log, step = (given.get(name) for name in RANGE)
    numbers = [low, high] if step is None else [low, high, step]
    for value in numbers:
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        require(number, f"{form}, all of them numbers")
    require(low < high, f"sweep.space: {key}: low={low} must be below high={high}")
    require(log in (None, True, False), f"sweep.space: {key}: log={log} must be true or false")
    require(not log or low > 0, f"sweep.space: {key}: low={low} must be above 0 with log=true")
    require(step is None or (step > 0 and not log), f"sweep.space: {key}: step={step} must be above 0, and without log")
    schema = dict(schema_fields(TrainConfig()))
    types = str(schema[key].type).split(" | ") if key in schema else []
    numeric = "int" in types or "float" in types
    require(numeric, f"sweep.space: {key} takes no numbers; give a list of choices such as [...]")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not divisible by `step`")  # Optuna then lowers `high`
        if "float" in types:
            return FloatDistribution(low, high, log=bool(log), step=step)
        whole = all(value == int(value) for value in numbers)
        require(whole, f"sweep.space: {key}={given}: {key} takes whole numbers")
        return IntDistribution(int(low), int(high), log=bool(log), step=int(step or 1))


def check_key(key: str) -> None:
    """Raise UserError unless this is a key, or a group of choices, that can vary from run to run."""
    known = list(dotted_keys(OmegaConf.structured(TrainConfig)))
    defaults = OmegaConf.load(CONFIGS / "train.yaml").defaults
    groups = [name for entry in defaults if OmegaConf.is_dict(entry) for name in entry]
    ends = [name for name in known if name.split(".")[-1] == key.split(".")[-1]]
    near = f"; did you mean {ends[0]}?" if len(ends) == 1 else did_you_mean(key, known)
    require(key in known or key in groups, f"sweep.space: {key} is not a key of the configuration{near}")
    require(key not in NEVER, f"sweep.space: {key} cannot vary; leave it out")
    has_value = key in dict(schema_fields(TrainConfig()))
    require(has_value or key in groups, f"sweep.space: {key} is a group of keys; give one of them")


def combinations(space: list[Dimension]) -> int | None:
    """Return the number of combinations; None if a range has no steps."""
    values = [dimension.values() for dimension in space]
    return None if None in values else math.prod(len(numbers or []) for numbers in values)


def grid(space: list[Dimension]) -> list[dict[str, Plain]]:
    """Return every combination, as Optuna's parameters. Raises UserError for a range without steps."""
    values = []
    for dimension in space:
        numbers = dimension.values()
        needs = "sweep.sampler=grid needs a list of choices, or a step"
        require(numbers is not None, f"sweep.space: {dimension.key}: {needs}")
        values.append(numbers or [])
    return [dict(zip((one.key for one in space), point, strict=True)) for point in itertools.product(*values)]
