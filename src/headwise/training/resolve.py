"""From the configuration as it was asked for to the one that a run trains with, in which nothing is left open.

    run = resolve(config, vocab_size=103, n_devices=1, device="cpu")
    run.model.vocab_size, run.trainer.precision, run.compile, run.accumulate

What `auto` stands for depends on the configuration and the kind of device alone, never on a measurement, so that the
same command trains the same way each time; a resumed run keeps what was decided.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from headwise.config import (
    PRESET_KEYS,
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
from headwise.console import say
from headwise.errors import choose, require
from headwise.model.gpt import GPT
from headwise.validation import batch_arithmetic

PRECISIONS = {  # float16 is left out: it needs a loss scale, which the optimizers here do not undo
    "32-true": torch.float32,
    "bf16-mixed": torch.bfloat16,  # where it is safe, float32 elsewhere
    "bf16-true": torch.bfloat16,
    "64-true": torch.float64,
}
# Floating-point operations of a run from which on compiling saves more than it costs: about half a minute for a model
# of four layers, some seconds with a warm cache.
COMPILE_FROM = {"cpu": 2e13, "cuda": 2e16}


@dataclass(frozen=True)
class RunConfig:
    """The configuration of one run, every `auto` settled. Nothing assigns to it or to its parts."""

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


def check_choices(config: TrainConfig) -> None:
    """Raise UserError for a precision or a value of compile that does not exist."""
    choose("trainer.precision", config.trainer.precision, {"auto": None, **PRECISIONS})
    require(config.compile in ("auto", True, False), f"compile={config.compile} is none of auto, true, false")


def resolve(
    config: TrainConfig,
    vocab_size: int,
    n_devices: int,
    device: str,
    initial_config: GPTConfig | None = None,
    earlier: Mapping[str, Any] | None = None,
) -> RunConfig:
    """Return the configuration that the run trains with.

    `vocab_size` is the tokenizer's, `device` the kind of device (cpu, cuda, mps), `initial_config` that of the model to
    start from (initial_model_config), and `earlier` what a checkpoint of the run to resume says of it. Raises UserError
    if the vocabulary or the batches do not fit.
    """
    before = earlier["config"] if earlier else None
    model = initial_config or config.model
    size = model.vocab_size or vocab_size
    fits = size >= vocab_size
    require(fits, f"model.vocab_size={size} is below the tokenizer's {vocab_size}; leave it out")
    data = config.data
    if earlier and before and earlier.get("devices", 1) != n_devices:  # a run keeps its batch on any number of devices
        data = replace(data, global_batch_size=data.global_batch_size or before["data"]["global_batch_size"])
    global_batch_size, accumulate = batch_arithmetic(data, n_devices)
    precision = config.trainer.precision
    if precision == "auto":
        has_bf16 = device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        precision = before["trainer"]["precision"] if before else "bf16-mixed" if has_bf16 else "32-true"
    tokenizer = config.tokenizer
    if initial_config:
        tokenizer = TokenizerConfig(f"that of {config.init_from}", vocab_size)
    settled = replace(
        config,
        model=replace(model, vocab_size=size),
        tokenizer=tokenizer,
        data=replace(data, global_batch_size=global_batch_size),
        trainer=replace(config.trainer, precision=precision),
    )
    values = {one.name: getattr(settled, one.name) for one in fields(TrainConfig)}
    run = RunConfig(**values | {"compile": False}, n_devices=n_devices, accumulate=accumulate)
    if config.compile == "auto":
        repaid = training_flops(run) >= COMPILE_FROM.get(device, float("inf"))
        return replace(run, compile=before["compile"] if before else repaid)
    return replace(run, compile=config.compile)


def training_flops(run: RunConfig) -> float:
    """Return the floating-point operations of the whole training."""
    with torch.device("meta"):
        model = GPT(run.model)
    return model.flops_per_token() * run.tokens_per_step * run.trainer.max_steps


def initial_model_config(wanted: GPTConfig, theirs: GPTConfig, overrides: list[str], where: str | Path) -> GPTConfig:
    """Return the configuration of a model that starts from another one's weights: its kinds and sizes, but the dropout
    that is wanted and, if shorter, the block_size. Raises UserError for `overrides` that ask for another model or
    tokenizer; `where` names the model to start from."""
    given = {override.split("=")[0].lstrip("+") for override in overrides}
    for key in sorted(key for key in given if key.split(".")[0] == "tokenizer"):
        require(False, f"{key}: the model of init_from={where} has its own tokenizer; leave {key} out")
    for name, after in asdict(theirs).items():
        before = getattr(replace(theirs, **{name: getattr(wanted, name)}).resolved(), name)  # a null is theirs as well
        asked = f"model.{name}" in given or ("model" in given and name in PRESET_KEYS)
        if name == "block_size":
            fits = not asked or before <= after
            require(fits, f"model.block_size={before} is above the {after} of init_from={where}")
        elif name == "init":
            require(not asked, f"model.init={before} has no meaning with init_from={where}; leave it out")
        elif name != "dropout":
            require(not asked or before == after, f"model.{name}={before} differs from {after} in init_from={where}")
    shorter = min(wanted.block_size, theirs.block_size)
    return replace(theirs, block_size=shorter, dropout=wanted.dropout, init=wanted.init)


def compiler_works(device: torch.device) -> bool:
    """Return whether torch.compile works on this device; print why where it does not."""
    try:
        layer = nn.Linear(2, 2).to(device)
        torch.compile(layer, fullgraph=True)(torch.ones(2, 2, device=device))
    except Exception as error:  # whatever the platform lacks, training continues without it
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        say(f"compile: no compiler works here ({reason}); training without")
        torch._dynamo.reset()
        return False
    return True
