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
from dataclasses import dataclass
from datetime import datetime
from multiprocessing import current_process
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from headwise.config import PrepareConfig, SweepConfig, TrainConfig, schema_fields
from headwise.config_errors import check_keys, check_old_names, composition_error, task_error
from headwise.console import fail, say
from headwise.distributed.processes import PATIENCE, agreed, end_with_parent, rank, started
from headwise.errors import require
from headwise.files import leave_no_empty
from headwise.sweep.multirun import ENDED, Multirun, check_launcher, leave_no_bare_multirun, note_end
from headwise.validation import range_in_words, validate

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


@dataclass
class Job:
    """A task as Hydra runs it: it ends with one line for wrong input, and in a multirun does not end the other runs."""

    task: Callable[[DictConfig], None]
    schema: type
    composed: bool = False  # whether the command line gave a configuration

    def run(self, config: DictConfig) -> None:
        """Check the configuration and run the task."""
        self.composed = True
        if current_process().name.startswith("LokyProcess"):  # one of joblib's, which would outlive its parent
            end_with_parent()
        folder = Path(HydraConfig.get().runtime.output_dir)
        try:
            check_keys(config, self.schema)
            typed: Any = OmegaConf.to_object(config)
            validate(typed)
            (folder / ENDED).unlink(missing_ok=True)
            self.task(config)
        except Exception as error:
            line, code = task_error(error, config)
            if HydraConfig.get().mode == RunMode.MULTIRUN and not rank():
                if code is None:
                    traceback.print_exc()
                print(f"error: run {folder.name}: {line}", file=sys.stderr)
                if code != 2 or not (folder / "config.yaml").exists():  # wrong input does not end a run that exists
                    note_end(folder, list(HydraConfig.get().overrides.task), "failed", line, code)
            elif code is None:
                raise
            else:
                stop(line, code)
        except KeyboardInterrupt:
            sys.exit(130)
        finally:
            if "run_dir" in config:
                leave_no_empty(Path(HydraConfig.get().runtime.output_dir or "."))  # which Hydra has made


def launch(
    task: Callable[[DictConfig], None], config_name: str, about: str, after: Callable[[Path], None] | None = None
) -> None:
    """Run `task` with the configuration that the command line composes. Wrong input: one line, exit code 2. `about`
    is what --help prints first; `after` gets the folder of a multirun when all its runs have ended."""
    arguments = sys.argv[1:]
    if {"--help", "-h"} & set(arguments):
        print_help(config_name, about, [argument for argument in arguments if not argument.startswith("-")])
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise, so that the error is printed in one line here
    register()
    Multirun.folder = None
    multirun = [flag for flag in arguments if flag in ("-m", "--multirun")]
    sys.argv[1:] = multirun + [argument for argument in arguments if argument not in multirun]  # in any place
    job = Job(task, SCHEMAS[config_name])
    try:
        check_arguments(config_name, arguments, bool(multirun))
        hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=config_name)(job.run)()
    except KeyboardInterrupt:  # while the jobs were in other processes
        if Multirun.folder:
            say(f"interrupted; the same command with resume=auto run_dir={Multirun.folder} continues")
        sys.exit(130)
    except BrokenExecutor as error:  # of joblib: out of memory, say
        fail(f"a run's process died ({str(error).splitlines()[0]}); the same command with resume=auto continues", 1)
    except Exception as error:
        if job.composed:
            raise
        stop(composition_error(error, job.schema))  # whatever goes wrong this early comes from the command line
    finally:
        folder, Multirun.folder = Multirun.folder, None
        if folder:
            leave_no_bare_multirun(folder)
    if after and folder and folder.is_dir():
        after(folder)


def check_arguments(config_name: str, arguments: list[str], multirun: bool) -> None:
    """Raise UserError for arguments with names of version 0.1, and for a sweep that cannot run as one."""
    check_old_names(arguments)
    if config_name == "sweep":
        together = started()
        require(not multirun, "-m is for train; what varies in a sweep is in sweep.space")
        alone = "each trial trains on one device; give sweep.n_jobs=N for several"
        require(together is None, f"a sweep cannot be started by {together and together.by}: {alone}")
    check_launcher()


def stop(message: str, code: int = 2) -> NoReturn:
    """Print what is wrong and exit. Of several processes the first prints first: where all have the same error, the
    others end with it, so that it is printed once."""
    if rank():
        time.sleep(PATIENCE)
        message = f"process {rank()}: {message}"
    fail(message, code)


def compose_for_help(config_name: str, overrides: list[str]) -> DictConfig:
    """Return the configuration with these overrides. Exits with one line for wrong ones."""
    try:
        check_old_names(overrides)
        with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
            return hydra.compose(config_name, overrides)
    except Exception as error:
        fail(composition_error(error, SCHEMAS[config_name]))


def print_help(config_name: str, about: str, words: list[str]) -> None:
    """Print the help: `about` and the choices of each group, or with the word `keys` every key with its value, its
    meaning and its range. (Hydra's own help takes a second longer.)"""
    register()
    if "keys" in words:
        config = compose_for_help(config_name, [word for word in words if word != "keys"])
        for key, one in schema_fields(SCHEMAS[config_name]()):
            value = OmegaConf.select(config, key) if key != "run_dir" else "runs/<experiment>/<date>_<time>"
            value = "null" if value is None else str(value).lower() if isinstance(value, bool) else value
            bounds = one.metadata["bounds"]
            limits = f"; {range_in_words(bounds)}" if bounds else ""
            print(f"{f'{key}={value}':<44} {one.metadata['meaning']}{limits}")
        return
    asked = (CONFIGS / f"{config_name}.yaml").read_text(encoding="utf-8")
    folders = [folder for folder in sorted(CONFIGS.iterdir()) if folder.is_dir() and f"- {folder.name}: " in asked]
    print(f"{about.rstrip()}\n\nGroups, as group=name:\n")
    for folder in folders:
        print(f"  {folder.name:<11} {', '.join(sorted(file.stem for file in folder.glob('*.yaml')))}")
    print("\n--help keys lists every key with its value and its meaning; with group=name, the values that it gives.")
