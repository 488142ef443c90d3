"""From the command line to a task's configuration, by Hydra; whatever is wrong with it is said in one line.

    launch(main, "train", about=__doc__)        # in scripts/train.py

Torch is not imported here, so --help answers at once.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from headwise.cli import fail
from headwise.config import PrepareConfig, TrainConfig, dotted_keys
from headwise.errors import RunError, UserError, did_you_mean, require
from headwise.processes import PATIENCE, agreed, rank

CONFIGS = Path(__file__).parents[2] / "configs"
SCHEMAS: dict[str, type] = {"train": TrainConfig, "prepare": PrepareConfig}  # of configs/<name>.yaml


def new_run_folder(resume: str | None, experiment: str | None) -> str:
    """Where a run goes when run_dir is not given: where the run to resume is, or a folder named by the time."""
    if resume and resume != "auto":
        path = Path(resume)
        folder = path.parent if path.suffix == ".ckpt" else path
        return str(folder.parent if folder.name == "checkpoints" else folder)
    runs = Path("runs") / (experiment or "own")
    if resume == "auto":
        found = sorted(runs.glob("*/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime)
        if found:
            return str(found[-1].parent.parent)
    folder = runs / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    twins = (folder.with_name(f"{folder.name}_{i}") for i in range(2, 1000))
    return str(next(path for path in (folder, *twins) if not path.exists()))


def register() -> None:
    """Tell Hydra the schemas and the resolver that the configurations lean on."""

    folders: dict[str | None, str] = {}  # one for all jobs of -m, though each asks

    def resolve(resume: str | None, *, _root_: DictConfig) -> str:
        if resume not in folders:  # before the jobs of -m, only the root knows Hydra's part; in a job, only HydraConfig
            hydra_part: Any = HydraConfig.get() if HydraConfig.initialized() else _root_.hydra
            experiment = hydra_part.runtime.choices.experiment
            folders[resume] = agreed("run_dir", lambda: new_run_folder(resume, experiment))
        return folders[resume]

    for name, schema in SCHEMAS.items():
        ConfigStore.instance().store(name=f"{name}_schema", node=schema)
    OmegaConf.register_new_resolver("new_run_folder", resolve, replace=True)


def launch(task: Callable[[DictConfig], None], config_name: str, about: str) -> None:
    """Run `task` with the configuration that the command line composes. Wrong input: one line, exit code 2. `about`
    is what --help says first."""

    composed, schema = False, SCHEMAS[config_name]

    def job(config: DictConfig) -> None:
        nonlocal composed
        composed = True
        try:
            refuse_unknown(config, schema)
            typed: Any = OmegaConf.to_object(config)
            typed.validate()
            task(config)
        except UserError as error:
            stop(str(error))
        except RunError as error:
            stop(str(error), code=1)
        except OSError as error:
            if error.filename is None:  # not about a path that the user gave
                raise
            stop(f"{place(config, error.filename)}: {error.strerror}; give another place")
        except OmegaConfBaseException as error:  # of a value: a ${...} that names nothing
            stop(f"{error.full_key}: {str(error).splitlines()[0]}; a $ before a brace is written \\$")
        except KeyboardInterrupt:
            sys.exit(130)
        finally:
            if "run_dir" in config:
                leave_no_empty_folder()

    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise, so that we say it in our way
    register()
    multirun = [flag for flag in sys.argv[1:] if flag in ("-m", "--multirun")]
    sys.argv[1:] = multirun + [argument for argument in sys.argv[1:] if argument not in multirun]  # wherever it stood
    try:
        if {"--help", "-h"} & set(sys.argv[1:]):
            print(help_text(config_name, about))
            return
        hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=config_name)(job)()
    except Exception as error:
        if composed:
            raise
        stop(one_line(error, schema))  # whatever goes wrong this early comes from the command line


def stop(message: str, code: int = 2) -> NoReturn:
    """Say what is wrong and leave. Of several processes the first speaks first: where all have the same to say, its end
    is that of the others, so that it is said once."""
    if rank():
        time.sleep(PATIENCE)
        message = f"process {rank()}: {message}"
    fail(message, code)


def place(config: DictConfig, file: str) -> str:
    """A path that gave trouble, and the key that led there."""
    for key in ("data.cache_dir", "data.path", "data.val_path", "run_dir"):
        value = OmegaConf.select(config, key)
        if value and Path(file).absolute().is_relative_to(Path(value).absolute()):
            return f"{key}={value}: {file}"
    return file


def refuse_unknown(config: DictConfig, schema: type) -> None:
    """Raise UserError for a key added with + or removed with ~, which Hydra allows and nobody would read."""
    known, given = (list(dotted_keys(c)) for c in (OmegaConf.structured(schema), config))
    for key in given:
        require(key in known, f"{key} is not a key of the configuration{did_you_mean(key, known)}")
    for key in known:
        require(key in given, f"{key} is missing from the configuration; give it a value instead of removing it")


def help_text(config_name: str, about: str) -> str:
    """What --help prints, with the values that the other arguments give. (Hydra's own takes a second longer.)"""
    overrides = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = hydra.compose(config_name, overrides)
    folders = sorted(path for path in CONFIGS.iterdir() if path.is_dir())
    asked = (CONFIGS / f"{config_name}.yaml").read_text(encoding="utf-8")
    folders = [folder for folder in folders if f"- {folder.name}: " in asked]
    groups = {folder.name: ", ".join(sorted(file.stem for file in folder.glob("*.yaml"))) for folder in folders}
    choices = "\n".join(f"{name}: {options}" for name, options in groups.items())
    keys = OmegaConf.to_yaml(config).rstrip()
    return f"{about}\nChoices, as group=name\n\n{choices}\n\nKeys and their values now, as key=value\n\n{keys}"


def leave_no_empty_folder() -> None:
    """Remove the run's folder, which Hydra has made, if nothing was written there."""
    if HydraConfig.initialized():
        folder = Path(HydraConfig.get().runtime.output_dir or ".")
        with suppress(OSError):  # not ours to remove, or to look into
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def one_line(error: Exception, schema: type) -> str:
    """What Hydra or OmegaConf say about a wrong key, type or choice, in one line with the nearest right one."""
    if isinstance(error, MissingConfigException) and error.options and error.missing_cfg_file:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        return f"{group}={choice} is none of {', '.join(error.options)}{did_you_mean(choice, error.options)}"
    if isinstance(error, OverrideParseException):
        quotes = "a value with spaces, commas or brackets needs quotes twice: 'key=\"a, b\"'"
        return f"{error.override}: cannot be read as key=value ({quotes})"
    if isinstance(error, OSError) and error.filename:
        return f"run_dir: {error.filename}: {error.strerror}"
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
    given = [argument for argument in sys.argv[1:] if argument.startswith(f"{key}=")]
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
    """What a key's value must be, in words, from its type in the schema."""
    part: Any = schema
    *groups, last = key.split(".")
    for group in groups:
        part = get_type_hints(part)[group]
    written = next(f.type for f in fields(part) if f.name == last)
    return " or ".join(KINDS.get(kind, "a group of keys") for kind in str(written).split(" | "))
