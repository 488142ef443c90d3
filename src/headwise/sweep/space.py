"""What varies in a sweep: keys of the configuration, each with its choices or its range.

    space = read_space({"optimizer.lr": {"low": 1e-4, "high": 1e-2, "log": True}, "model.n_layer": [2, 4]})
    overrides = [override for one in space for override in one.suggest(trial)]

Choices that are mappings set several keys at once; their own key is then a name of your choosing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from omegaconf import OmegaConf
from optuna import Trial

from headwise.config import TrainConfig, dotted_keys
from headwise.errors import did_you_mean, require
from headwise.launch import CONFIGS
from headwise.sweep.multirun import quoted

RANGE = ("low", "high", "log", "step")
NEVER = ("run_dir", "resume", "estimate")  # keys that are the sweep's own business
Plain = str | int | float | bool | None


def written(key: str, value: Plain) -> str:
    """key=value as on the command line."""
    if isinstance(value, str):
        return f"{key}={value if value.isidentifier() else quoted(value)}"
    return f"{key}={'null' if value is None else str(value).lower() if isinstance(value, bool) else value}"


@dataclass
class Choices:
    """One of several values, or of several bundles of overrides."""

    key: str
    options: dict[Plain, list[str]]  # what Optuna calls it -> the overrides that it means

    def suggest(self, trial: Trial) -> list[str]:
        """The overrides of a trial."""
        return self.options[trial.suggest_categorical(self.key, list(self.options))]

    def ends(self) -> list[list[str]]:
        """All that can come out of it."""
        return list(self.options.values())


@dataclass
class Range:
    """A number between two others, both included."""

    key: str
    low: float
    high: float
    log: bool
    step: float | None
    whole: bool

    def suggest(self, trial: Trial) -> list[str]:
        """The override of a trial."""
        if self.whole:
            step = 1 if self.step is None else int(self.step)
            value: float = trial.suggest_int(self.key, int(self.low), int(self.high), step=step, log=self.log)
        else:
            value = trial.suggest_float(self.key, self.low, self.high, step=self.step, log=self.log)
        return [written(self.key, value)]

    def ends(self) -> list[list[str]]:
        """The least and the greatest that can come out of it."""
        return [[written(self.key, int(x) if self.whole else x)] for x in (self.low, self.high)]


Dimension = Choices | Range


def read_space(space: Mapping[str, Any]) -> list[Dimension]:
    """The dimensions of a space, checked. A key whose value is null is left out. Raises UserError."""
    found = [dimension(key, given) for key, given in space.items() if given is not None]
    require(bool(found), "sweep.space is empty; choose a space (--help lists them) or give sweep.space=...")
    keys = [key for one in found for key in keys_of(one)]
    twice = {key for key in keys if keys.count(key) > 1}
    require(not twice, f"sweep.space: {', '.join(sorted(twice))} is varied twice")
    return found


def keys_of(one: Dimension) -> list[str]:
    """The configuration's keys that a dimension sets."""
    return list(dict.fromkeys(override.split("=")[0] for end in one.ends() for override in end))


def dimension(key: str, given: Any) -> Dimension:
    """One entry of a space."""
    if isinstance(given, list):
        require(bool(given), f"sweep.space: {key}=[] holds no choices")
        require(len(set(map(repr, given))) == len(given), f"sweep.space: {key}={given} holds a choice twice")
        if all(isinstance(choice, Mapping) for choice in given):
            return Choices(key, {label(choice): bundle(choice) for choice in given})
        check_key(key)
        require(
            all(isinstance(choice, Plain) for choice in given),
            f"sweep.space: {key}={given} must be a list of plain values, or of mappings of keys to values",
        )
        return Choices(key, {choice: [written(key, choice)] for choice in given})
    wanted = f"sweep.space: {key}={given} must be a list of choices, or {{low: ..., high: ...}} with log or step"
    require(isinstance(given, Mapping), wanted)
    for name in given:
        require(name in RANGE, f"sweep.space: {key}.{name} is none of {', '.join(RANGE)}{did_you_mean(name, RANGE)}")
    check_key(key)
    low, high, log, step = (given.get(name) for name in RANGE)
    for value in (low, high, *([] if step is None else [step])):
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        require(number, f"{wanted}, all of them numbers")
    require(low < high, f"sweep.space: {key}: low={low} must be below high={high}")
    require(log in (None, True, False), f"sweep.space: {key}: log={log} must be true or false")
    require(not log or low > 0, f"sweep.space: {key}: low={low} must be above 0 with log=true")
    require(step is None or (step > 0 and not log), f"sweep.space: {key}: step={step} must be above 0, and without log")
    kinds = kinds_of(key)
    require(
        bool({"int", "float"} & kinds), f"sweep.space: {key} takes no numbers; give a list of choices such as [...]"
    )
    whole = "float" not in kinds
    numbers = [low, high] if step is None else [low, high, step]
    require(
        not whole or all(value == int(value) for value in numbers),
        f"sweep.space: {key}={given}: {key} takes whole numbers",
    )
    if step is not None:
        high = low + math.floor((high - low) / step + 1e-9) * step
    return Range(key, low, high, bool(log), step, whole)


def label(choice: Mapping[str, Any]) -> str:
    """A bundle of overrides as a name."""
    return " ".join(f"{key.split('.')[-1]}={value}" for key, value in choice.items())


def bundle(choice: Mapping[str, Any]) -> list[str]:
    """A mapping of keys to values as overrides."""
    require(bool(choice), "sweep.space: {} sets no key")
    for key, value in choice.items():
        check_key(key)
        require(isinstance(value, Plain), f"sweep.space: {key}={value} must be a plain value")
    return [written(key, value) for key, value in choice.items()]


def check_key(key: str) -> None:
    """Raise UserError unless this is a key, or a group of choices, that can vary from run to run."""
    known = list(dotted_keys(OmegaConf.structured(TrainConfig)))
    asked = (CONFIGS / "train.yaml").read_text(encoding="utf-8")
    groups = [folder.name for folder in CONFIGS.iterdir() if f"- {folder.name}: " in asked]
    require(key in known or key in groups, f"sweep.space: {key} is not a key of the configuration{near(key, known)}")
    require(key not in NEVER, f"sweep.space: {key} cannot vary; leave it out")
    group = OmegaConf.is_dict(OmegaConf.select(OmegaConf.structured(TrainConfig), key, throw_on_missing=False))
    require(not group or key in groups, f"sweep.space: {key} is a group of keys; give one of them")


def near(key: str, known: list[str]) -> str:
    """'; did you mean ...?' with the nearest key, or the one whose last part this is."""
    ends = [name for name in known if name.split(".")[-1] == key.split(".")[-1]]
    return f"; did you mean {ends[0]}?" if len(ends) == 1 else did_you_mean(key, known)


def kinds_of(key: str) -> set[str]:
    """The types that a key takes, by name."""
    part: Any = TrainConfig
    *groups, last = key.split(".")
    for group in groups:
        part = get_type_hints(part)[group]
    return (
        set(str(part.__dataclass_fields__[last].type).split(" | ")) if hasattr(part, "__dataclass_fields__") else set()
    )


def points_of(one: Dimension) -> list[Plain] | None:
    """All values of a dimension; None of a range without steps, which has no end of them."""
    if isinstance(one, Choices):
        return list(one.options)
    step = one.step if one.step is not None else 1 if one.whole and not one.log else None
    if step is None:
        return None
    count = math.floor((one.high - one.low) / step + 1e-9) + 1
    return [int(x) if one.whole else x for x in (one.low + i * step for i in range(count))]


def combinations(space: list[Dimension]) -> int | None:
    """How many there are; None where there is no end of them."""
    sizes = [None if (points := points_of(one)) is None else len(points) for one in space]
    return None if None in sizes else math.prod(size for size in sizes if size is not None)


def grid(space: list[Dimension]) -> list[dict[str, Plain]]:
    """Every combination, as Optuna's parameters. Raises UserError for a range without steps."""
    values = []
    for one in space:
        points = points_of(one)
        ask = "sweep.sampler=grid needs a list of choices, or a step"
        require(points is not None, f"sweep.space: {one.key}: {ask}")
        values.append(points or [])
    return [dict(zip((one.key for one in space), point, strict=True)) for point in itertools.product(*values)]
