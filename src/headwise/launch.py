"""From the command line to a task's configuration, by Hydra; whatever is wrong with it is said in one line.

    launch(main, "train", about=__doc__)        # in scripts/train.py

Torch is not imported here, so --help answers at once.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from dataclasses import fields
from datetime import datetime
from multiprocessing import current_process
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from headwise.config import PrepareConfig, SweepConfig, TrainConfig, dotted_keys, new_name
from headwise.console import fail, say
from headwise.distributed.processes import PATIENCE, agreed, end_with_parent, rank, started
from headwise.errors import RunError, UserError, did_you_mean, require
from headwise.files import leave_no_empty
from headwise.sweep.multirun import ENDED, Multirun, check_launcher, leave_no_bare_multirun, note_end
from headwise.validation import validate

# Hydra warns of it, but our launchers are named as theirs on purpose.
warnings.filterwarnings("ignore", message="[\\s\\S]*validated against ConfigStore schema")
CONFIGS = Path(__file__).parents[2] / "configs"

SCHEMAS: dict[str, type] = {"train": TrainConfig, "prepare": PrepareConfig, "sweep": SweepConfig}  # configs/<name>.yaml


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
        node = OmegaConf.structured(schema)
        if name == "sweep":
            OmegaConf.set_struct(node.sweep.space, False)  # any key; sweep/space.py checks them
        ConfigStore.instance().store(name=f"{name}_schema", node=node)
    OmegaConf.register_new_resolver("new_run_folder", resolve, replace=True)


def launch(
    task: Callable[[DictConfig], None], config_name: str, about: str, after: Callable[[Path], None] | None = None
) -> None:
    """Run `task` with the configuration that the command line composes. Wrong input: one line, exit code 2. `about`
    is what --help says first. In a multirun a run that fails does not end the others; `after` gets all runs' folder."""

    composed, schema = False, SCHEMAS[config_name]

    def job(config: DictConfig) -> None:
        nonlocal composed
        composed = True
        several = HydraConfig.get().mode == RunMode.MULTIRUN
        if current_process().name.startswith("LokyProcess"):  # one of joblib's, which would go on by itself
            end_with_parent()
        folder = Path(HydraConfig.get().runtime.output_dir)
        try:
            refuse_unknown(config, schema)
            typed: Any = OmegaConf.to_object(config)
            validate(typed)
            (folder / ENDED).unlink(missing_ok=True)
            task(config)
        except Exception as error:
            line, code = in_one_line(error, config)
            if several and not rank():
                if code is None:
                    traceback.print_exc()
                print(f"error: run {folder.name}: {line}", file=sys.stderr)
                if code != 2 or not (folder / "config.yaml").exists():  # no refusal ends a run that is there
                    note_end(folder, list(HydraConfig.get().overrides.task), "failed", line, code)
            elif code is None:
                raise
            else:
                stop(line, code)
        except KeyboardInterrupt:
            sys.exit(130)
        finally:
            if "run_dir" in config:
                leave_no_empty_folder()

    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise, so that we say it in our way
    register()
    Multirun.folder = None
    multirun = [flag for flag in sys.argv[1:] if flag in ("-m", "--multirun")]
    sys.argv[1:] = multirun + [argument for argument in sys.argv[1:] if argument not in multirun]  # wherever it stood
    try:
        if {"--help", "-h"} & set(sys.argv[1:]):
            print(help_text(config_name, about))
            return
        refuse_old_names(sys.argv[1:])
        if multirun and config_name == "sweep":
            fail(f"{multirun[0]} is for scripts/train.py; what varies here is in sweep.space")
        together = started()
        if together and config_name == "sweep":
            fail(f"a sweep does not go with {together.by}: each trial trains on one device; sweep.n_jobs=N for several")
        check_launcher()
        hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=config_name)(job)()
    except KeyboardInterrupt:  # while the jobs were in other processes
        if Multirun.folder:
            say(f"interrupted; the same command with resume=auto run_dir={Multirun.folder} goes on")
        sys.exit(130)
    except BrokenExecutor as error:  # of joblib: out of memory, say
        fail(f"a run's process died ({str(error).splitlines()[0]}); the same command with resume=auto goes on", 1)
    except Exception as error:
        if composed:
            raise
        stop(one_line(error, schema))  # whatever goes wrong this early comes from the command line
    finally:
        folder, Multirun.folder = Multirun.folder, None
        if folder:
            leave_no_bare_multirun(folder)
    if after and folder and folder.is_dir():
        after(folder)


def refuse_old_names(arguments: list[str]) -> None:
    """Exit with the present name where an argument has a key or a choice of version 0.1."""
    for argument in arguments:
        old = tuple(argument.lstrip("+").split("=", 1))
        new = new_name(*old) if len(old) == 2 else old
        if new != old and new[1] == old[-1]:
            fail(f"{argument}: {old[0]} is now {new[0]}")
        if new != old:
            fail(f"{argument} is now {new[0]}={str(new[1]).lower()}")


def in_one_line(error: Exception, config: DictConfig) -> tuple[str, int | None]:
    """What went wrong in a task, with the exit code; without one where it is a mistake of ours."""
    match error:
        case UserError():
            return str(error), 2
        case RunError():
            return str(error), 1
        case OSError(filename=str() as name):  # a path that the user gave
            return f"{place(config, name)}: {error.strerror}; give another place", 2
        case OmegaConfBaseException():  # of a value: a ${...} that names nothing
            return f"{error.full_key}: {str(error).splitlines()[0]}; a $ before a brace is written \\$", 2
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}", None


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
    for key in (key for key in given if not key.startswith("sweep.space.")):  # which sweep/space.py reads
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
        leave_no_empty(Path(HydraConfig.get().runtime.output_dir or "."))


def one_line(error: Exception, schema: type, arguments: list[str] | None = None) -> str:
    """What Hydra or OmegaConf say about a wrong key, type or choice, in one line with the nearest right one. The
    arguments are by default those of the command line."""
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
    all_given = sys.argv[1:] if arguments is None else arguments
    given = [argument for argument in all_given if argument.startswith(f"{key}=")]
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
