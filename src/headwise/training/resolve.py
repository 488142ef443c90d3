"""From the configuration that the user gave to the one that a run trains with; and whether a run can be resumed.

    run = resolve(config, vocab_size=103, train_tokens=20011, n_devices=1, device="cpu")
    run.model.vocab_size, run.trainer.precision, run.compile, run.accumulate

What `auto` stands for depends on the configuration and the kind of device only, never on a measurement, so that the
same command trains the same way each time. A resumed run keeps its values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from headwise.config import (
    ARCHITECTURE_KEYS,
    CallbacksConfig,
    DataConfig,
    GPTConfig,
    LoggerConfig,
    OptimizerConfig,
    ScheduleConfig,
    TokenizerConfig,
    TrainConfig,
    TrainerConfig,
)
from headwise.config_keys import dotted_keys
from headwise.errors import UserError, choose, require
from headwise.model.gpt import GPT
from headwise.training.optimizers import OPTIMIZERS
from headwise.training.schedules import SCHEDULES

DTYPES = {  # of trainer.precision; float16 is left out: it needs a loss scale, which the optimizers here do not undo
    "32-true": torch.float32,
    "bf16-mixed": torch.bfloat16,  # where it is safe, float32 elsewhere
    "bf16-true": torch.bfloat16,
    "64-true": torch.float64,
}
# compile=auto compiles runs of at least this many floating-point operations, in which it saves more time than it costs:
# about half a minute for a model of four layers, some seconds with a warm cache.
COMPILE_FROM = {"cpu": 2e13, "cuda": 2e16}
# Keys that a resumed run must not change, since its result depends on them.
FIXED = (
    *("init_from", "plugins", "model", "optimizer", "schedule", "seed", "data.batch_size", "data.global_batch_size"),
    *("data.val_tokens", "compile", "trainer.precision", "trainer.gradient_clip_val", "trainer.deterministic"),
    "callbacks.attention.prompts",  # the page shows the same ones at every step
)
# Keys that may change with the number of devices: they change rounding and what dropout draws.
FIXED_PER_DEVICE_COUNT = ("data.batch_size", "compile")


@dataclass(frozen=True)
class RunConfig:
    """The configuration of one run, in which compile and trainer.precision are no longer auto. Nothing assigns to it or
    to its parts."""

    model: GPTConfig
    tokenizer: TokenizerConfig
    data: DataConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    trainer: TrainerConfig
    logger: LoggerConfig
    callbacks: CallbacksConfig
    seed: int
    threads: int | None
    compile: bool
    estimate: bool
    init_from: str | None
    resume: str | None
    plugins: list[str]
    run_dir: str
    n_devices: int
    accumulate: int  # forward passes of each device in an optimizer step

    @property
    def tokens_per_step(self) -> int:
        """Return the tokens of one optimizer step, over all devices."""
        return self.data.batch_size * self.accumulate * self.n_devices * self.model.block_size

    def as_dict(self) -> dict[str, Any]:
        """Return the configuration in plain values, with TrainConfig's keys, as checkpoints and config.yaml hold it."""
        values = asdict(self)
        return {one.name: values[one.name] for one in fields(TrainConfig)}


def validate_choices(config: TrainConfig) -> None:
    """Raise UserError for an optimizer, schedule, precision or value of compile that does not exist."""
    choose("optimizer.kind", config.optimizer.kind, OPTIMIZERS)
    choose("schedule.kind", config.schedule.kind, SCHEDULES)
    choose("trainer.precision", config.trainer.precision, {"auto": None, **DTYPES})
    require(config.compile in ("auto", True, False), f"compile={config.compile} is none of auto, true, false")
    trainer, limit = config.trainer, config.trainer.limit_val_batches
    steps = isinstance(trainer.fast_dev_run, int) and trainer.fast_dev_run >= 0
    require(steps, f"trainer.fast_dev_run={trainer.fast_dev_run} must be true, false or a number of steps")
    fits = limit is None or (type(limit) is int and limit >= 1) or (type(limit) is float and 0 < limit <= 1)
    require(fits, f"trainer.limit_val_batches={limit} must be a number of batches, or a fraction such as 0.5")


def resolve(
    config: TrainConfig,
    vocab_size: int,
    train_tokens: int,
    n_devices: int,
    device: str,
    initial_config: GPTConfig | None = None,
    saved_about: Mapping[str, Any] | None = None,
) -> RunConfig:
    """Return the configuration that the run trains with.

    `vocab_size` is the tokenizer's, `train_tokens` the length of the training text, `device` the kind of device (cpu,
    cuda, mps), `initial_config` that of the model to start from (initial_model_config), and `saved_about` the `about`
    of a checkpoint of the run to resume. Raise UserError if the vocabulary or the batches do not fit.
    """
    saved = saved_about["config"] if saved_about else None
    model = initial_config or config.model
    size = model.vocab_size or vocab_size
    require(size >= vocab_size, f"model.vocab_size={size} is below the tokenizer's {vocab_size}; leave it out")
    data = config.data
    if saved_about and saved and saved_about.get("devices", 1) != n_devices:  # the batch of a run does not change
        data = replace(data, global_batch_size=data.global_batch_size or saved["data"]["global_batch_size"])
    global_batch_size, accumulate = batch_arithmetic(data, n_devices)
    precision = config.trainer.precision
    if precision == "auto":
        has_bf16 = device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        precision = saved["trainer"]["precision"] if saved else "bf16-mixed" if has_bf16 else "32-true"
    trainer = with_steps(config.trainer, train_tokens // (global_batch_size * model.block_size))
    tokenizer = config.tokenizer
    if initial_config:
        tokenizer = TokenizerConfig(f"that of {config.init_from}", vocab_size)
    values = {one.name: getattr(config, one.name) for one in fields(TrainConfig)} | {
        "model": replace(model, vocab_size=size),
        "tokenizer": tokenizer,
        "data": replace(data, global_batch_size=global_batch_size),
        "trainer": replace(trainer, precision=precision),
        "logger": replace(config.logger, kind="none", extra=[]) if trainer.fast_dev_run else config.logger,
        "compile": config.compile is True,
    }
    run = RunConfig(**values, n_devices=n_devices, accumulate=accumulate)
    if config.compile == "auto":
        worthwhile = training_flops(run) >= COMPILE_FROM.get(device, float("inf"))
        return replace(run, compile=saved["compile"] if saved else worthwhile)
    return run


def batch_arithmetic(data: DataConfig, n_devices: int) -> tuple[int, int]:
    """Return the windows of an optimizer step over all devices, and the forward passes of each device for it. Raise
    UserError if the batches do not divide."""
    at_once = data.batch_size * n_devices
    whole = data.global_batch_size or at_once
    each = f"data.batch_size={data.batch_size}" + (f" x {n_devices} devices" if n_devices > 1 else "")
    require(whole % at_once == 0, f"data.global_batch_size={whole} is not divisible by {each}")
    return whole, whole // at_once


def with_steps(trainer: TrainerConfig, steps_per_epoch: int) -> TrainerConfig:
    """Return a copy whose max_steps are those of max_epochs or fast_dev_run, if one is given. Raise UserError if the
    text is too short for a step."""
    if trainer.fast_dev_run:
        steps = int(trainer.fast_dev_run)
        return replace(trainer, max_steps=steps, limit_val_batches=steps)
    if trainer.max_epochs is None:
        return trainer
    short = f"trainer.max_epochs={trainer.max_epochs}: the training text is shorter than one step's windows"
    require(steps_per_epoch > 0, f"{short}; give trainer.max_steps, or a smaller data.batch_size")
    return replace(trainer, max_steps=trainer.max_epochs * steps_per_epoch)


def training_flops(run: RunConfig) -> float:
    """Return the floating-point operations of the whole training."""
    with torch.device("meta"):
        model = GPT(run.model)
    return model.flops_per_token() * run.tokens_per_step * run.trainer.max_steps


def initial_model_config(config: GPTConfig, initial: GPTConfig, overrides: list[str], where: str | Path) -> GPTConfig:
    """Return the configuration of a model that starts from another one's weights: the initial model's kinds and sizes,
    the dropout of `config`, and its block_size if that is shorter. Raise UserError for `overrides` that ask for
    another model or tokenizer; `where` names the initial model."""
    given = {override.split("=")[0].lstrip("+") for override in overrides}
    for key in sorted(key for key in given if key.split(".")[0] == "tokenizer"):
        raise UserError(f"{key}: the model of init_from={where} has its own tokenizer; leave {key} out")
    # The initial sizes stand for a null of `config`.
    for name, initial_value in asdict(initial).items():
        value = getattr(replace(initial, **{name: getattr(config, name)}).resolved(), name)
        is_given = f"model.{name}" in given or ("model" in given and name in ARCHITECTURE_KEYS)
        if name == "block_size":
            fits = not is_given or value <= initial_value
            require(fits, f"model.block_size={value} is above the {initial_value} of init_from={where}")
        elif name == "init":
            require(not is_given, f"model.init={value} has no meaning with init_from={where}; leave it out")
        elif name != "dropout":
            same = not is_given or value == initial_value
            require(same, f"model.{name}={value} differs from {initial_value} in init_from={where}")
    shorter = min(config.block_size, initial.block_size)
    return replace(initial, block_size=shorter, dropout=config.dropout, init=config.init)


def checkpoint_to_resume(config: TrainConfig, folder: Path) -> Path | None:
    """Return the checkpoint to resume from, or None for a new run. Raise UserError if there is no such checkpoint, or
    a new run's folder already holds a run."""
    last = folder / "checkpoints" / "last.ckpt"
    if config.resume == "auto":
        return last if last.exists() else None
    if config.resume:
        given = Path(config.resume)
        path = given if given.is_file() else given / "checkpoints" / "last.ckpt"
        missing = f"resume={config.resume} holds no checkpoints/last.ckpt; give a run's folder, or auto"
        require(path.is_file(), missing)
        return path
    again = "give resume=auto to continue it, or another run_dir for a new run"
    require(not (folder / "config.yaml").exists(), f"run_dir={folder} already holds a run; {again}")
    return None


def validate_resume(saved: dict, run: RunConfig, text_key: str, resume_from: Path) -> None:
    """Raise UserError if a key on which a run's result depends differs from that of the checkpoint `saved`, or if the
    text does; `text_key` is TokenFiles.key."""
    about = saved["headwise"]["about"]
    again = f"{resume_from}; give the overrides of the run's overrides.yaml again, or start a new run"
    require(about["data"] == text_key, f"data: the text, its split or its tokenizer differs from {again}")
    was, now = OmegaConf.create(about["config"]), OmegaConf.create(run.as_dict())
    resolved = [GPTConfig(**config["model"]).resolved() for config in (about["config"], run.as_dict())]
    for key in dotted_keys(now):
        if key in FIXED_PER_DEVICE_COUNT and run.n_devices != about.get("devices", 1):
            continue
        before, after = OmegaConf.select(was, key), OmegaConf.select(now, key)
        if key == "plugins" and before is None:  # a checkpoint of version 0.1
            before = []
        if key.startswith("model.") and (before is None) != (after is None):  # a null of version 0.1 is a number now
            before, after = (getattr(model, key.removeprefix("model.")) for model in resolved)
        if key.startswith(FIXED) and not isinstance(after, DictConfig):
            require(before == after, f"{key}={after} differs from {before} in {again}")


def why_finished(saved: dict, run: RunConfig) -> str | None:
    """Return why the checkpoint's run has no step left to take, and what to change to continue it; None if it has."""
    step, patience = saved["global_step"], run.callbacks.early_stopping.patience
    if step >= run.trainer.max_steps:
        return f"all {step} steps have been taken; raise trainer.max_steps to continue"
    waited = [state["wait_count"] for name, state in saved["callbacks"].items() if name.startswith("EarlyStopping")]
    if patience and waited and waited[0] >= patience:
        return f"it stopped early at step {step}; raise callbacks.early_stopping.patience to continue"
    return None
