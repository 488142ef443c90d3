"""The parts of a run, built from its configuration: model, module, batches, callbacks, trainer."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from headwise.checkpoint import Checkpoint
from headwise.config import TrainConfig
from headwise.console import say
from headwise.data.datamodule import TextDataModule
from headwise.data.token_files import TokenFiles
from headwise.distributed import strategies
from headwise.errors import UserError
from headwise.inspection.inputs import (
    EXCERPT_TOKENS,
    held_out_input,
    ordinary_tokens,
    prompt_input,
    prose_excerpt,
    repeats_input,
)
from headwise.inspection.recorder import Recorder
from headwise.model.gpt import GPT
from headwise.training import callbacks
from headwise.training.clock import Stopwatch
from headwise.training.lightning_module import TrainingModule
from headwise.training.metrics import MetricsLog, losses
from headwise.training.resolve import RunConfig, compiler_works
from headwise.training.summary import git_commit, versions


def build_model(run: RunConfig, initial: Checkpoint | None) -> GPT:
    """Return the model, with the initial one's weights or new ones drawn by the run's seed."""
    L.seed_everything(run.seed, verbose=False)
    return initial.model.train() if initial else GPT(run.model)


def build_module(
    run: RunConfig, model: GPT, token_files: TokenFiles, saved_config: dict[str, Any], device: torch.device
) -> TrainingModule:
    """Return the LightningModule, which writes where it came from into every checkpoint."""
    about = {"config": saved_config, "devices": run.n_devices, "data": token_files.key}
    about |= {"text": token_files.manifest["text"], "versions": versions(), "git_commit": git_commit()}
    compiled = run.compile and not run.estimate and compiler_works(device)
    if compiled:
        say("compiling with the first step, which takes up to a minute, or some seconds with a warm cache")
    return TrainingModule(model, token_files, run.optimizer, run.schedule, run.seed, about, compile=compiled)


def build_datamodule(run: RunConfig, token_files: TokenFiles) -> TextDataModule:
    """Return the batches of the run."""
    return TextDataModule.from_token_files(
        token_files,
        run.model.block_size,
        run.data.batch_size,
        run.seed,
        run.data.val_tokens,
        steps_per_epoch=run.trainer.max_steps,
    )


def make_callbacks(run: RunConfig, folder: Path, token_files: TokenFiles, peak: float) -> list[L.Callback]:
    """Return the run's callbacks. Prompts that are not given are a part of the validation text."""
    tokenizer, wanted = token_files.tokenizer, run.callbacks
    val_every, metrics, stopwatch = run.trainer.val_check_interval, folder / "metrics.csv", Stopwatch()
    held_out = [i for i in token_files.tokens("val")[:8192].tolist() if i != tokenizer.end_of_text]
    own = tokenizer.encode(prose_excerpt(tokenizer.decode(held_out)))
    samples = wanted.samples
    prompt = tokenizer.encode(samples.prompt, "callbacks.samples.prompt") if samples.prompt else own[:32]
    recorder = make_recorder(run, folder, token_files, own[:EXCERPT_TOKENS])
    return [
        MetricsLog(metrics, run.trainer.log_every_n_steps, val_every, run.tokens_per_step, peak, stopwatch),
        callbacks.AttentionMaps(recorder, wanted.attention.every_n_steps, stopwatch),
        callbacks.TextSamples(
            folder / "samples.txt", samples.every_n_steps, prompt, samples.tokens, samples.temperature, stopwatch
        ),
        callbacks.ProgressBar(),
        callbacks.Checkpoints(
            folder / "checkpoints",
            wanted.checkpoint.every_n_steps,
            val_every,
            wanted.early_stopping.patience,
            stopwatch,
        ),
    ]


def make_recorder(run: RunConfig, folder: Path, token_files: TokenFiles, own: list[int]) -> Recorder:
    """Return what records attention: on the prompts, or else `own` tokens, on repeated tokens and on held-out text."""
    tokenizer, block_size = token_files.tokenizer, run.model.block_size
    prompts = [
        (f"prompt_{i}", tokenizer.encode(prompt, f"callbacks.attention.prompts: {prompt!r}"))
        for i, prompt in enumerate(run.callbacks.attention.prompts, start=1)
    ]
    inputs = [prompt_input(name, ids, tokenizer, block_size) for name, ids in prompts or [("text", own)]]
    inputs += repeats_input(ordinary_tokens(tokenizer), block_size)
    inputs.append(held_out_input(token_files.tokens("val"), block_size))
    return Recorder(folder / "attention", tokenizer, inputs, str(folder), partial(losses, folder / "metrics.csv"))


def make_trainer(
    config: TrainConfig | RunConfig, accumulate: int, watching: list[L.Callback], logger: Logger | None
) -> L.Trainer:
    """Return Lightning's Trainer with the configuration's flags. One long epoch: steps are what counts."""
    flags = asdict(config.trainer) | strategies.flags(config.trainer)
    flags["val_check_interval"] *= accumulate  # Lightning counts batches
    flags["precision"] = "32-true" if flags["precision"] == "auto" else flags["precision"]
    flags["log_every_n_steps"] = 1  # Lightning's own log is not used: MetricsLog counts steps
    try:
        return L.Trainer(
            **flags,
            max_epochs=-1,
            check_val_every_n_epoch=None,
            accumulate_grad_batches=accumulate,
            num_sanity_val_steps=0,
            callbacks=watching,
            logger=logger or False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
    except (ValueError, TypeError, RuntimeError, MisconfigurationException) as error:
        asked = config.trainer
        given = f"trainer.accelerator={asked.accelerator} trainer.devices={asked.devices}"
        given += f" trainer.strategy={asked.strategy} trainer.precision={asked.precision}"
        raise UserError(f"{given}: {str(error).splitlines()[0]}") from error
