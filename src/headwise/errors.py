"""What is wrong with what the user gave us, in one line.

Every check of a user's input raises UserError; the scripts print it without a traceback and exit with 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


class UserError(ValueError):
    """Wrong input: the message names the key, the value and what would be right."""


class RunError(RuntimeError):
    """A run that cannot go on, though nothing was wrong with its input: one line, exit code 1."""


class Pruned(Exception):
    """A run was ended on purpose, since others of its sweep do better: not a failure."""


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """'; did you mean rmsnorm?' for the option nearest to `name`, or nothing when none is near."""
    near = difflib.get_close_matches(name, list(options), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def choose(key: str, name: str, table: Mapping[str, T]) -> T:
    """The entry `name` of `table`; `key` is where the user wrote the name, such as model.norm."""
    if name not in table:
        raise UserError(f"{key}={name} is none of {', '.join(table)}{did_you_mean(str(name), table)}")
    return table[name]


def require(condition: bool, message: str) -> None:
    """Raise UserError(message) unless the condition holds."""
    if not condition:
        raise UserError(message)
