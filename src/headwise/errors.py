"""Define the errors that are printed in one line.

Every check of a user's input raises UserError; the commands print its message without a traceback and exit with 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


class UserError(ValueError):
    """Wrong input. The message names the key, its value, and what to give instead."""


class RunError(RuntimeError):
    """A run that cannot continue although its input was right. Exit code 1."""


class Pruned(Exception):
    """A trial of a sweep was stopped early because others do better. Not a failure."""


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """Return '; did you mean rmsnorm?' with the option most similar to `name`, or '' if none is similar."""
    near = difflib.get_close_matches(name, list(options), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its type if the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def choose(key: str, name: str, table: Mapping[str, T]) -> T:
    """Return the entry `name` of `table`. Raise UserError, naming `key` (such as model.norm), if there is none."""
    if name not in table:
        raise UserError(f"{key}={name} is none of {', '.join(table)}{did_you_mean(str(name), table)}")
    return table[name]


def require(condition: bool, message: str) -> None:
    """Raise UserError(message) unless the condition holds."""
    if not condition:
        raise UserError(message)
