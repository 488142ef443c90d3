"""What Hydra, OmegaConf and the checks say about wrong input, in one line with the key, the value and what is right."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from headwise.config import dotted_keys, new_name
from headwise.errors import RunError, UserError, did_you_mean, require


def check_old_names(arguments: list[str]) -> None:
    """Raise UserError with the present name where an argument has a key or a choice of version 0.1."""
    for argument in arguments:
        old = tuple(argument.lstrip("+").split("=", 1))
        new = new_name(*old) if len(old) == 2 else old
        if new != old and new[1] == old[-1]:
            raise UserError(f"{argument}: {old[0]} is now {new[0]}")
        if new != old:
            raise UserError(f"{argument} is now {new[0]}={str(new[1]).lower()}")


def check_keys(config: DictConfig, schema: type) -> None:
    """Raise UserError for a key added with + or removed with ~, which Hydra allows but nothing reads."""
    known, given = (list(dotted_keys(c)) for c in (OmegaConf.structured(schema), config))
    for key in (key for key in given if not key.startswith("sweep.space.")):  # which sweep/space.py reads
        require(key in known, f"{key} is not a key of the configuration{did_you_mean(key, known)}")
    for key in known:
        require(key in given, f"{key} is missing from the configuration; give it a value instead of removing it")


def task_error(error: Exception, config: DictConfig) -> tuple[str, int | None]:
    """Return what went wrong in a task, and the exit code: None where it is a mistake of the program."""
    match error:
        case UserError():
            return str(error), 2
        case RunError():
            return str(error), 1
        case OSError(filename=str() as name):  # a path that the user gave
            return f"{key_of_path(config, name)}: {error.strerror}; give another place", 2
        case OmegaConfBaseException():  # of a value: a ${...} that names nothing
            return f"{error.full_key}: {str(error).splitlines()[0]}; a $ before a brace is written \\$", 2
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}", None


def key_of_path(config: DictConfig, file: str) -> str:
    """Return a path that could not be read or written, after the key that it comes from."""
    for key in ("data.cache_dir", "data.path", "data.val_path", "run_dir"):
        value = OmegaConf.select(config, key)
        if value and Path(file).absolute().is_relative_to(Path(value).absolute()):
            return f"{key}={value}: {file}"
    return file


def composition_error(error: Exception, schema: type, overrides: list[str]) -> str:
    """Return what Hydra or OmegaConf say about a wrong key, type or choice in the overrides, in one line with the
    nearest right one."""
    if isinstance(error, MissingConfigException) and error.options and error.missing_cfg_file:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        return f"{group}={choice} is none of {', '.join(error.options)}{did_you_mean(choice, error.options)}"
    if isinstance(error, OverrideParseException):
        quotes = "a value with spaces, commas or brackets needs quotes twice: 'key=\"a, b\"'"
        return f"{error.override}: cannot be read as key=value ({quotes})"
    if isinstance(error, OSError) and error.filename:
        return f"run_dir: {error.filename}: {error.strerror}"
    if "Ambiguous value for argument" in str(error):
        argument = str(error).split("'")[1]
        return f"{argument}: several values make several runs, with -m; a list is written in brackets"
    cause: BaseException | None = error
    while cause and not isinstance(cause, UserError | RunError):
        cause = cause.__context__
    if cause:  # what the resolver found to be wrong
        return str(cause)
    cause = error
    while cause and not getattr(cause, "full_key", None):
        cause = cause.__cause__
    if cause is None:
        return ": ".join(line.strip() for line in str(error).splitlines() if line.strip())
    key = str(getattr(cause, "full_key", ""))
    known = list(dotted_keys(OmegaConf.structured(schema)))
    if key not in known:
        return f"{key} is not a key of the configuration{did_you_mean(key, known)}"
    given = [override for override in overrides if override.startswith(f"{key}=")]
    return f"{(given or [key])[-1]} must be {expected(key, schema)}"


KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "list[str]": 'a list such as \'["The first.","The second."]\'',
    "None": "null",
}


def expected(key: str, schema: type) -> str:
    """Return what a key's value must be, in words, from its type in the schema."""
    part: Any = schema
    *groups, last = key.split(".")
    for group in groups:
        part = get_type_hints(part)[group]
    written = next(f.type for f in fields(part) if f.name == last)
    return " or ".join(KINDS.get(kind, "a group of keys") for kind in str(written).split(" | "))
