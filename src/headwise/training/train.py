"""One training run, from a composed configuration to its folder of results."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException
from omegaconf import DictConfig, OmegaConf

from headwise import checkpoint
from headwise.checkpoint import Checkpoint
from headwise.config import TokenizerConfig, TrainConfig
from headwise.console import say
from headwise.data import prepare
from headwise.data.datamodule import TextDataModule
from headwise.data.token_files import TokenFiles
from headwise.distributed import strategies as devices
from headwise.distributed.estimate import matmul_peak, measured, plan, setting
from headwise.distributed.processes import first_then_others, rank
from headwise.errors import Pruned, UserError, choose, require
from headwise.evaluation import whole_split
from headwise.files import claimed, write_text
from headwise.inspection.inputs import OWN, held_out_input, ordinary_tokens, own_input, prompt_input, repeats_input
from headwise.inspection.recorder import Recorder
from headwise.model.gpt import GPT
from headwise.training import callbacks, choices, loggers
from headwise.training.choices import PRECISIONS, compiler_works
from headwise.training.clock import Stopwatch
from headwise.training.lightning_module import TrainingModule
from headwise.training.metrics import MetricsLog, losses
from headwise.training.optimizers import OPTIMIZERS
from headwise.training.resume import find_resume, refuse_another_run, why_finished
from headwise.training.schedules import SCHEDULES
from headwise.training.summary import git_commit, summarize, versions
from headwise.validation import batch_arithmetic, validate

KINDS = ("attention", "position", "norm", "mlp", "bias", "qk_norm")  # what model=gpt2 or model=qwen3 stands for


@dataclass
class Place:
    """Where a run goes, and what asked for it."""

    folder: Path  # of its results
    overrides: list[str]  # as on the command line
    again: str  # which command goes on with it; empty: that is said elsewhere
    sweep: str | None = None  # the name of the sweep that it is one of
    name: str | None = None  # what tells it from the others there


def place_of_job() -> Place:
    """That of the job that Hydra runs. One of a multirun is named by its number and what varies."""
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    if folder.is_relative_to(Path.cwd()):
        folder = folder.relative_to(Path.cwd())  # as a user would write it
    alone = hydra.mode != RunMode.MULTIRUN
    whole = folder if alone else folder.parent
    again = f"the same command with resume=auto run_dir={whole} goes on from its last checkpoint"
    if alone:
        return Place(folder, list(hydra.overrides.task), again)
    return Place(folder, list(hydra.overrides.task), again, whole.name, f"{folder.name} {hydra.job.override_dirname}")


def quieten() -> None:
    """Keep Lightning from saying what hardware it did not find, and what is not so."""
    for part in ("pytorch", "fabric"):
        logging.getLogger(f"lightning.{part}").setLevel(logging.WARNING)
    for untrue in (
        ".*LeafSpec.*",  # Lightning 2.6 speaks to an older torch
        ".*your dataloader is not resumable.*",  # TrainBatches starts at the trainer's global step
    ):
        warnings.filterwarnings("ignore", message=untrue)


def check(config: TrainConfig) -> L.Trainer:
    """Raise UserError for whatever can be known to be wrong before any work is done. The trainer that comes back is
    good for asking what devices there are."""
    validate(config)
    prepare.check(config.data, config.tokenizer)
    choose("optimizer.kind", config.optimizer.kind, OPTIMIZERS)
    choose("schedule.kind", config.schedule.kind, SCHEDULES)
    choices.check(config)
    loggers.check(config.logger)
    with torch.device("meta"):  # no memory, no work: the model's own checks alone
        GPT(replace(config.model, vocab_size=config.model.vocab_size or 1))
    trainer = make_trainer(config, accumulate=1, watchers=[], logger=None)
    devices.check(config, trainer)
    batch_arithmetic(config.data, trainer.world_size)[1]
    return trainer


def train(composed: DictConfig, place: Place | None = None, watchers: Sequence[L.Callback] = ()) -> dict | None:
    """Run the training that the configuration describes, or go on with it; returns summary.json's contents, or None
    where there is nothing to report: with estimate=true, and on devices other than the first. `place` is by default
    that of Hydra's job; further `watchers` see each validation after the run's own, and may raise Pruned."""
    place = place or place_of_job()
    with claimed(place.folder, "run_dir") if rank() == 0 else nullcontext():
        return train_there(composed, place, watchers)


def train_there(composed: DictConfig, place: Place, watchers: Sequence[L.Callback]) -> dict | None:
    """Train in a folder that is this process's own."""
    began = time.monotonic()
    quieten()
    config = OmegaConf.to_object(composed)
    assert isinstance(config, TrainConfig)
    unfitted = check(config)
    world, device, first = unfitted.world_size, unfitted.strategy.root_device, unfitted.is_global_zero
    folder = place.folder
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.backends.cuda.matmul.fp32_precision = torch.backends.cudnn.fp32_precision = "tf32"
    resume_from = find_resume(config, folder) if first or config.resume else None
    saved = checkpoint.read(resume_from, "resume") if resume_from else None
    if config.resume and not saved and first:
        say(f"resume={config.resume}: there is no checkpoint in {folder} yet; starting anew")
    if saved:  # Lightning reads the file again: no need to hold it twice
        saved |= {"state_dict": None, "optimizer_states": None}
    earlier = saved["headwise"]["about"] if saved else None
    before = earlier["config"] if earlier else None
    if earlier and before and earlier.get("devices", 1) != world:  # a run keeps it, whatever its devices
        config.data.global_batch_size = config.data.global_batch_size or before["data"]["global_batch_size"]
    config.data.global_batch_size = batch_arithmetic(config.data, world)[0]
    batch_arithmetic(config.data, world)[1]
    start = adopt(config, resume_from or config.init_from, place.overrides) if config.init_from else None
    packed = first_then_others("text", lambda: packed_text(config, start))
    choices.settle(config, device.type, world, before)
    config.compile = config.compile and not config.estimate and compiler_works(device)
    plain = asdict(config) | {"run_dir": str(folder)}  # as it turned out
    if saved and resume_from:
        refuse_another_run(saved, plain, packed.key, resume_from, world)
        over = why_finished(saved, config)
        if over and (folder / "summary.json").exists():
            say(f"{folder} has finished: {over}")
            return json.loads((folder / "summary.json").read_text(encoding="utf-8")) if first else None
    L.seed_everything(config.seed, verbose=False)
    model = start.model.train() if start else GPT(config.model)
    lines, accumulate = plan(config, world, model, packed.manifest["tokens"]), batch_arithmetic(config.data, world)[1]
    about = {"config": plain, "devices": world, "data": packed.key, "text": packed.manifest["text"]}
    about |= {"versions": versions(), "git_commit": git_commit()}
    module = TrainingModule(
        model, packed, config.optimizer, config.schedule, config.seed, about, compile=bool(config.compile)
    )
    block_size, wanted = config.model.block_size, config.data
    datamodule = TextDataModule.from_token_files(
        packed, block_size, wanted.batch_size, config.seed, wanted.val_tokens, config.trainer.max_steps
    )
    peak = matmul_peak(device, PRECISIONS[config.trainer.precision])
    watching = [*make_callbacks(config, world, folder, packed, peak), *watchers]
    if config.estimate:
        if first:
            print("\n".join([*lines, *measured(config, world, model, device)]))
        return None
    logger = loggers.make_logger(config.logger, folder, plain, place.name, place.sweep) if first else None
    if first:
        write_text(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(plain)))
        write_text(folder / "overrides.yaml", OmegaConf.to_yaml(place.overrides))
        more = [*lines[1:], setting(config, world, device, peak)] if not place.sweep or folder.name == "0" else []
        for line in [lines[0], *more, f"folder           {folder}"]:
            say(line)
    if config.compile:
        say("compiling with the first step, which takes up to a minute, or some seconds with a warm cache")
    whole_run = False
    trainer = make_trainer(config, accumulate, watching, logger)
    if world > 1 and config.threads:
        os.environ["OMP_NUM_THREADS"] = str(config.threads)  # or Lightning shares the cores out anew
    try:
        trainer.fit(module, datamodule, ckpt_path=resume_from, weights_only=True)
        whole_run = True
    except Pruned:  # which is no failure
        whole_run = True
        raise
    except RuntimeError as error:
        if world > 1 and devices.is_lost(error):
            devices.leave_after_another(trainer)
        raise
    except SystemExit as stop:  # Lightning's answer to Ctrl-C, and to SIGTERM
        if (folder / "checkpoints/last.ckpt").exists() and first and place.again:
            say(f"interrupted; {place.again}")
        sys.exit(143 if isinstance(stop, SIGTERMException) else 130)
    finally:
        if not whole_run:
            devices.end_others(trainer)
        wandb_run = loggers.whereabouts(logger)
        loggers.close(logger, failed=not whole_run)
    if not first:
        return None
    summary = summarize(folder, place.overrides, model.n_parameters(), wandb_run, time.monotonic() - began)
    if config.data.val_tokens:  # the run validated on a part; what it came to is measured on all
        summary |= whole_split(folder / "checkpoints" / "best.ckpt", packed, str(device))
    write_text(folder / "summary.json", json.dumps(summary, indent=2) + "\n")
    return summary


def adopt(config: TrainConfig, where: str | Path, overrides: list[str]) -> Checkpoint:
    """The model to start from. `config` takes its kinds and sizes, all but the dropout and a shorter block_size; the
    model keeps the weights that these use. Raises UserError for `overrides` that ask for another model."""
    start = checkpoint.load(where, "init_from")
    given = {override.split("=")[0].lstrip("+") for override in overrides}
    theirs = start.model.config
    for key in sorted(key for key in given if key.split(".")[0] == "tokenizer"):
        raise UserError(f"{key}: the model of init_from={where} has its own tokenizer; leave {key} out")
    for name in asdict(theirs):
        before, after = getattr(config.model, name), getattr(theirs, name)
        asked = f"model.{name}" in given or ("model" in given and name in KINDS)
        if name == "block_size":
            require(
                not asked or before <= after, f"model.block_size={before} is beyond the {after} of init_from={where}"
            )
            setattr(config.model, name, min(before, after))
        elif name == "init":
            require(not asked, f"model.init={before} means nothing with init_from={where}; leave it out")
        elif name != "dropout":
            require(not asked or before == after, f"model.{name}={before} differs from {after} in init_from={where}")
            setattr(config.model, name, after)
    config.tokenizer = TokenizerConfig(f"that of {where}", start.tokenizer.vocab_size)
    weights = start.model.state_dict()
    if "position.table.weight" in weights:
        weights["position.table.weight"] = weights["position.table.weight"][: config.model.block_size].clone()
    start.model = GPT.from_weights(config.model, weights)
    return start


def packed_text(config: TrainConfig, start: Checkpoint | None) -> TokenFiles:
    """The run's text as tokens, of the tokenizer of the model to start from if there is one; the model's vocabulary
    becomes the tokenizer's."""
    packed = prepare.prepare(config.data, config.tokenizer, start.tokenizer if start else None)
    size = packed.tokenizer.vocab_size
    config.model.vocab_size = config.model.vocab_size or size
    require(
        config.model.vocab_size >= size,
        f"model.vocab_size={config.model.vocab_size} is below the tokenizer's {size}; leave it out",
    )
    return packed


def make_callbacks(
    config: TrainConfig, devices: int, folder: Path, packed: TokenFiles, peak: float
) -> list[L.Callback]:
    """What watches the run. Prompts that are not given are a stretch of the validation text."""
    tokenizer, block_size, wanted = packed.tokenizer, config.model.block_size, config.callbacks
    val_every = config.trainer.val_check_interval
    held_out = [i for i in packed.tokens("val")[:8192].tolist() if i != tokenizer.end_of_text]
    own = tokenizer.encode(own_input(tokenizer.decode(held_out)))
    asked = [
        (f"prompt_{i}", tokenizer.encode(prompt, f"callbacks.attention.prompts: {prompt!r}"))
        for i, prompt in enumerate(wanted.attention.prompts, start=1)
    ]
    shown = [prompt_input(name, ids, tokenizer, block_size) for name, ids in asked or [("text", own[:OWN])]]
    others = [*repeats_input(ordinary_tokens(tokenizer), block_size), held_out_input(packed.tokens("val"), block_size)]
    metrics = folder / "metrics.csv"
    recorder = Recorder(folder / "attention", tokenizer, shown + others, str(folder), partial(losses, metrics))
    sample = wanted.samples
    start = tokenizer.encode(sample.prompt, "callbacks.samples.prompt") if sample.prompt else own[:32]
    tokens_per_step, patience = batch_arithmetic(config.data, devices)[0] * block_size, wanted.early_stopping.patience
    watch, checkpoints = Stopwatch(), folder / "checkpoints"
    return [
        MetricsLog(metrics, config.trainer.log_every_n_steps, val_every, tokens_per_step, peak, watch),
        callbacks.AttentionMaps(recorder, wanted.attention.every_n_steps, watch),
        callbacks.TextSamples(
            folder / "samples.txt", sample.every_n_steps, start, sample.tokens, sample.temperature, watch
        ),
        callbacks.ProgressBar(),
        callbacks.Checkpoints(checkpoints, wanted.checkpoint.every_n_steps, val_every, patience, watch),
    ]


def make_trainer(config: TrainConfig, accumulate: int, watchers: list, logger: Logger | None) -> L.Trainer:
    """Lightning's Trainer with the configuration's flags. One long epoch: steps are what counts."""
    flags = asdict(config.trainer) | devices.flags(config)
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
            callbacks=watchers,
            logger=logger or False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
    except (ValueError, TypeError, RuntimeError, MisconfigurationException) as error:
        asked = config.trainer
        given = f"trainer.accelerator={asked.accelerator} trainer.devices={asked.devices}"
        given += f" trainer.strategy={asked.strategy} trainer.precision={asked.precision}"
        raise UserError(f"{given}: {str(error).splitlines()[0]}") from error
