"""One training run, from a configuration to its folder of results.

    summary = train(config)         # inside Hydra's job; commands/train.py

`train` lists the steps in order; each is a function below it or in build.py.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import OmegaConf

from headwise import checkpoint
from headwise.checkpoint import Checkpoint
from headwise.config import TrainConfig
from headwise.console import say
from headwise.data.datamodule import TextDataModule
from headwise.data.sources import validate_text_choices
from headwise.data.token_files import TokenFiles, prepare
from headwise.distributed.processes import PARENT, rank, rank_zero_first
from headwise.errors import Pruned, require
from headwise.evaluation import evaluate_split
from headwise.files import locked_folder, relative_to_cwd, write_text
from headwise.model.gpt import GPT
from headwise.registry import MODEL_KINDS, load_plugins, plugged_parts
from headwise.training import build
from headwise.training.lightning_module import TrainingModule
from headwise.training.loggers import close_loggers, log_model, make_loggers, validate_logger, wandb_location
from headwise.training.resolve import (
    DTYPES,
    RunConfig,
    batch_arithmetic,
    checkpoint_to_resume,
    initial_model_config,
    resolve,
    validate_choices,
    validate_resume,
    why_finished,
)
from headwise.training.summary import summarize
from headwise.validation import validate


@dataclass
class RunInfo:
    """The folder of a run's results, and where the run comes from."""

    folder: Path
    overrides: list[str]  # as on the command line
    resume_hint: str  # printed when the run is interrupted: how to continue it; empty for a trial of a sweep
    sweep: str | None = None  # name of the sweep that it belongs to
    name: str | None = None  # its name within the sweep


def train(
    config: TrainConfig, info: RunInfo | None = None, extra_callbacks: Sequence[L.Callback] = ()
) -> dict[str, Any] | None:
    """Run the training that the configuration describes, or resume it, and return summary.json's contents; None with
    estimate=true, and on devices other than the first.

    `info` is by default that of Hydra's job. `extra_callbacks` come after the run's own, and may raise Pruned.
    """
    from headwise.distributed.estimate import cost_lines, device_line, matmul_peak, plan_lines

    start = time.monotonic()
    info = info or info_of_job()
    silence_lightning()
    validate_run(config, info.overrides)
    device, n_devices, is_first = devices_of_run(config)
    with locked_folder(info.folder, "run_dir") if rank() == 0 else nullcontext():
        set_backends(config)
        resume_from, saved = read_checkpoint(config, info.folder, is_first)
        initial = load_initial_model(config, resume_from, info.overrides)
        tokenizer = initial.tokenizer if initial else None
        token_files = rank_zero_first("text", partial(prepare, config.data, config.tokenizer, tokenizer))
        run = resolve(
            config,
            vocab_size=token_files.tokenizer.vocab_size,
            train_tokens=len(token_files.tokens("train")),
            n_devices=n_devices,
            device=device.type,
            initial_config=initial.model.config if initial else None,
            saved_about=saved["headwise"]["about"] if saved else None,
        )
        if saved and resume_from:
            validate_resume(saved, run, token_files.key, resume_from)
            if summary := finished_summary(saved, run, info.folder):
                return summary if is_first else None
        model = build.build_model(run, initial)
        datamodule = build.build_datamodule(run, token_files)
        peak = matmul_peak(device, DTYPES[run.trainer.precision])
        callbacks = [*build.build_callbacks(run, info.folder, token_files, peak), *extra_callbacks]
        plan = plan_lines(run, model, token_files.manifest["tokens"])
        if run.estimate:
            if is_first:
                print("\n".join([*plan, *cost_lines(run, model, device)]))
            return None
        saved_config = run.as_dict() | {"run_dir": str(info.folder)}
        module = build.build_module(run, model, token_files, saved_config, device)
        plan.append(device_line(run, device, peak))
        loggers = begin_folder(run, info, saved_config, plan) if is_first else []
        wandb_run = wandb_location(loggers)
        trainer = build.build_trainer(run, run.accumulate, callbacks, loggers, info.folder)
        fit(trainer, module, datamodule, resume_from, run, info)
        return write_summary(run, info, module, token_files, wandb_run, start) if is_first else None


def info_of_job() -> RunInfo:
    """Return the RunInfo of Hydra's job. A run of a multirun is named by its number and the values that vary."""
    hydra = HydraConfig.get()
    folder = relative_to_cwd(Path(hydra.runtime.output_dir))
    is_multirun = hydra.mode == RunMode.MULTIRUN
    whole = folder.parent if is_multirun else folder
    resume_hint = f"the same command with resume=auto run_dir={whole} continues from its last checkpoint"
    info = RunInfo(folder, list(hydra.overrides.task), resume_hint)
    return replace(info, sweep=whole.name, name=f"{folder.name} {hydra.job.override_dirname}") if is_multirun else info


def silence_lightning() -> None:
    """Silence Lightning's messages about hardware, and warnings that do not apply."""
    for part in ("pytorch", "fabric"):
        logging.getLogger(f"lightning.{part}").setLevel(logging.WARNING)
    for message in (
        ".*LeafSpec.*",  # Lightning 2.6 calls an interface that torch has renamed
        ".*smaller than the logging interval.*",  # metrics.csv has a row at every validation anyway
        ".*your dataloader is not resumable.*",  # TrainBatches starts at the trainer's global step
    ):
        warnings.filterwarnings("ignore", message=message)


def validate_run(config: TrainConfig, overrides: Sequence[str] = ()) -> None:
    """Raise UserError for everything that can be known to be wrong without the text and the devices."""
    load_plugins(config.plugins)
    both = config.trainer.max_epochs and any(one.startswith("trainer.max_steps=") for one in overrides)
    require(not both, f"trainer.max_epochs={config.trainer.max_epochs} and trainer.max_steps: give one of them")
    validate(config)
    kinds = {kind: getattr(config.model, kind) for kind in MODEL_KINDS}
    read = not config.model.options or bool(plugged_parts(kinds))
    require(read, f"model.options={config.model.options} is for parts of plugins, and the model has none")
    validate_text_choices(config.data, config.tokenizer)
    validate_choices(config)
    validate_logger(config.logger)
    with torch.device("meta"):  # takes no memory: only the model's own checks
        GPT(replace(config.model, vocab_size=config.model.vocab_size or 1))


def devices_of_run(config: TrainConfig) -> tuple[torch.device, int, bool]:
    """Return this process's device, the number of devices, and whether this one is the first. Raise UserError if there
    are no such devices or the batches do not divide among them."""
    from headwise.distributed.strategies import validate_processes

    trainer = build.build_trainer(config)  # knows the devices; another one trains
    validate_processes(config, trainer)
    batch_arithmetic(config.data, trainer.world_size)
    return trainer.strategy.root_device, trainer.world_size, trainer.is_global_zero


def set_backends(config: TrainConfig) -> None:
    """Set the number of threads, and TF32 for matrix products on GPUs that have it."""
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.backends.cuda.matmul.fp32_precision = torch.backends.cudnn.fp32_precision = "tf32"


def read_checkpoint(config: TrainConfig, folder: Path, is_first: bool) -> tuple[Path | None, dict | None]:
    """Return the checkpoint to resume from and its contents without the weights, which Lightning reads again; None
    for a new run."""
    resume_from = checkpoint_to_resume(config, folder) if is_first or config.resume else None
    if resume_from:
        return resume_from, checkpoint.read(resume_from, "resume") | {"state_dict": None, "optimizer_states": None}
    if config.resume and is_first:
        say(f"resume={config.resume}: there is no checkpoint in {folder} yet; starting from step 0")
    return None, None


def load_initial_model(config: TrainConfig, resume_from: Path | None, overrides: list[str]) -> Checkpoint | None:
    """Return the model of init_from, with the run's dropout and block_size, and its tokenizer; None without init_from.
    Raise UserError for overrides that ask for another model."""
    if not config.init_from:
        return None
    where = resume_from or config.init_from
    initial = checkpoint.load(where, key="init_from")
    model_config = initial_model_config(config.model, initial.model.config, overrides, where)
    weights = initial.model.state_dict()
    if "position.table.weight" in weights:
        weights["position.table.weight"] = weights["position.table.weight"][: model_config.block_size].clone()
    return replace(initial, model=GPT.from_weights(model_config, weights))


def finished_summary(saved: dict, run: RunConfig, folder: Path) -> dict | None:
    """Return the summary of a run that has finished, and print why it has; None if the run continues."""
    why, file = why_finished(saved, run), folder / "summary.json"
    if not why or not file.exists():
        return None
    say(f"{folder} has finished: {why}")
    return json.loads(file.read_text(encoding="utf-8"))


def begin_folder(run: RunConfig, info: RunInfo, saved_config: dict[str, Any], plan: list[str]) -> list[Logger]:
    """Write config.yaml and overrides.yaml to the run's folder, print the plan, and return the loggers."""
    write_text(info.folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(saved_config)))
    write_text(info.folder / "overrides.yaml", OmegaConf.to_yaml(info.overrides))
    first_of_sweep = not info.sweep or info.folder.name == "0"
    for line in [*(plan if first_of_sweep else plan[:1]), f"folder           {info.folder}"]:
        say(line)
    if run.trainer.fast_dev_run:
        n = run.trainer.max_steps
        say(f"trainer.fast_dev_run: {n} step{'s' * (n > 1)}, validation on {n} batch{'es' * (n > 1)}, no logger")
    return make_loggers(run.logger, info.folder, saved_config, info.name, info.sweep)


def fit(
    trainer: L.Trainer,
    module: TrainingModule,
    datamodule: TextDataModule,
    resume_from: Path | None,
    run: RunConfig,
    info: RunInfo,
) -> None:
    """Train. However it ends, close the logger and leave no other process running."""
    from headwise.distributed.strategies import exit_with_failed_process, is_connection_error, kill_child_processes

    if run.n_devices > 1 and run.threads:
        os.environ["OMP_NUM_THREADS"] = str(run.threads)  # or Lightning divides the cores among the processes
    os.environ[PARENT] = str(os.getpid())
    failed = True
    try:
        trainer.fit(module, datamodule, ckpt_path=resume_from, weights_only=True)
        if run.logger.log_model:
            log_model(trainer.loggers, info.folder)
        failed = False
    except Pruned:
        failed = False
        raise
    except RuntimeError as error:
        if run.n_devices > 1 and is_connection_error(error):
            exit_with_failed_process(trainer)
        raise
    except SystemExit as stop:  # Lightning's answer to Ctrl-C, and to SIGTERM
        if (info.folder / "checkpoints/last.ckpt").exists() and trainer.is_global_zero and info.resume_hint:
            say(f"interrupted; {info.resume_hint}")
        sys.exit(143 if isinstance(stop, SIGTERMException) else 130)
    finally:
        if failed:
            kill_child_processes(trainer)
        close_loggers(trainer.loggers, failed)


def write_summary(
    run: RunConfig,
    info: RunInfo,
    module: TrainingModule,
    token_files: TokenFiles,
    wandb_run: str | None,
    start: float,
) -> dict[str, Any]:
    """Write summary.json, and return its contents."""
    parameters = module.model.n_parameters()
    summary = summarize(info.folder, info.overrides, parameters, wandb_run, time.monotonic() - start)
    if run.trainer.fast_dev_run:
        summary["fast_dev_run"] = run.trainer.max_steps
    elif run.data.val_tokens or run.trainer.limit_val_batches:  # validated on a part; the summary has the whole split's
        summary |= evaluate_split(Path(summary["checkpoint"]), token_files, str(module.device))
    write_text(info.folder / "summary.json", json.dumps(summary, indent=2) + "\n")
    return summary
