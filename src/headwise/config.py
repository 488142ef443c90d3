"""The typed schema behind configs/: every key, its type and its default, and one line for a wrong one.

`launch` runs a script's task under Hydra. Torch is not imported here, so --help answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from datetime import datetime
from operator import attrgetter
from pathlib import Path
from typing import Any, get_type_hints

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf

from headwise.cli import fail
from headwise.errors import RunError, UserError, did_you_mean, require
from headwise.model.config import GPTConfig

CONFIGS = Path(__file__).parents[2] / "configs"


@dataclass
class TokenizerConfig:
    kind: str = "char"  # char, bpe
    vocab_size: int = 1024  # for bpe; char has as many tokens as the text has characters


@dataclass
class DataConfig:
    source: str = "python_docs"  # python_docs, files
    path: str | None = None  # for files: a .txt file, a folder of them, or a glob
    val_path: str | None = None  # validate on this text instead of holding out a part
    val_fraction: float = 0.1  # the text's last part, held out for validation
    batch_size: int = 32  # windows for each forward pass
    global_batch_size: int | None = None  # windows for each optimizer step; null: batch_size
    cache_dir: str = "data/cache"  # packed tokens, reused


@dataclass
class OptimizerConfig:
    kind: str = "adamw"
    lr: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.1


@dataclass
class ScheduleConfig:
    kind: str = "cosine"  # cosine, constant
    warmup_steps: int = 100
    min_lr_ratio: float = 0.1  # the last step's rate, as a part of optimizer.lr


@dataclass
class TrainerConfig:
    """Flags of lightning.Trainer; val_check_interval and log_every_n_steps count optimizer steps."""

    max_steps: int = 2000
    max_time: str | None = None  # DD:HH:MM:SS
    accelerator: str = "auto"
    devices: Any = 1
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "32-true"  # 32-true, bf16-mixed, bf16-true, 64-true
    val_check_interval: int = 250
    log_every_n_steps: int = 10
    gradient_clip_val: float | None = 1.0
    deterministic: bool | None = None
    benchmark: bool | None = None
    detect_anomaly: bool = False
    inference_mode: bool = True
    profiler: str | None = None  # simple, advanced


@dataclass
class LoggerConfig:
    kind: str = "wandb"  # wandb, tensorboard, csv, none; the run's folder has metrics.csv with each of them
    project: str = "headwise"
    name: str | None = None  # null: the run folder's name
    entity: str | None = None


@dataclass
class AttentionConfig:
    every_n_steps: int | None = 250  # null: no maps
    prompts: list[str] = field(default_factory=list)  # empty: a stretch of the validation text


@dataclass
class CheckpointConfig:
    every_n_steps: int | None = None  # last.ckpt between validations too; it is written at each one anyway


@dataclass
class SamplesConfig:
    every_n_steps: int | None = 250  # null: no samples
    tokens: int = 200
    prompt: str | None = None  # null: a stretch of the validation text
    temperature: float = 0.8


@dataclass
class CallbacksConfig:
    attention: AttentionConfig = field(default_factory=AttentionConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    samples: SamplesConfig = field(default_factory=SamplesConfig)


@dataclass
class TrainConfig:
    """All of configs/train.yaml."""

    model: GPTConfig = field(default_factory=GPTConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    callbacks: CallbacksConfig = field(default_factory=CallbacksConfig)
    seed: int = 1337
    threads: int | None = None  # CPU threads; null: torch's choice
    resume: str | None = None  # auto, a run's folder or a checkpoint
    run_dir: str = "???"

    def validate(self) -> None:
        """Raise UserError for a number out of its range. The tables of kinds are checked where they live."""
        self.model.validate()
        for key in (
            *("data.batch_size", "data.global_batch_size", "threads", "trainer.max_steps"),
            *("trainer.val_check_interval", "trainer.log_every_n_steps", "callbacks.attention.every_n_steps"),
            *("callbacks.checkpoint.every_n_steps", "callbacks.samples.every_n_steps"),
        ):
            self.check(key, lambda value: value >= 1, "must be at least 1")
        for key in (
            *("optimizer.weight_decay", "schedule.warmup_steps"),
            *("callbacks.samples.tokens", "callbacks.samples.temperature"),
        ):
            self.check(key, lambda value: value >= 0, "must be at least 0")
        self.check("seed", lambda value: 0 <= value < 1 << 32, "must be at least 0 and below 2^32")
        self.check("tokenizer.vocab_size", lambda value: value >= 256, "must be at least 256, one token for each byte")
        for key in ("optimizer.lr", "optimizer.eps", "trainer.gradient_clip_val"):
            self.check(key, lambda value: value > 0, "must be above 0")
        for key in ("optimizer.beta1", "optimizer.beta2"):
            self.check(key, lambda value: 0 <= value < 1, "must be at least 0 and below 1")
        self.check("schedule.min_lr_ratio", lambda value: 0 <= value <= 1, "must lie between 0 and 1")
        batch = self.data.batch_size
        self.check("data.global_batch_size", lambda n: n % batch == 0, f"is not divisible by data.batch_size={batch}")

    def check(self, key: str, right: Callable[[Any], bool], rule: str) -> None:
        """Raise UserError naming the key, its value and the rule, unless the value is null or right."""
        value = attrgetter(key)(self)
        require(value is None or right(value), f"{key}={value} {rule}")

    @property
    def global_batch_size(self) -> int:
        """Windows for each optimizer step."""
        return self.data.global_batch_size or self.data.batch_size

    @property
    def accumulate(self) -> int:
        """Forward passes for each optimizer step."""
        return self.global_batch_size // self.data.batch_size


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
    """Tell Hydra the schema and the resolver that configs/train.yaml leans on."""

    folders: dict[str | None, str] = {}  # one for all jobs of -m, though each asks

    def resolve(resume: str | None, *, _root_: DictConfig) -> str:
        if resume not in folders:  # before the jobs of -m, only the root knows Hydra's part; in a job, only HydraConfig
            hydra_part: Any = HydraConfig.get() if HydraConfig.initialized() else _root_.hydra
            folders[resume] = new_run_folder(resume, hydra_part.runtime.choices.experiment)
        return folders[resume]

    ConfigStore.instance().store(name="train_schema", node=TrainConfig)
    OmegaConf.register_new_resolver("new_run_folder", resolve, replace=True)


def launch(task: Callable[[DictConfig], None], config_name: str, about: str) -> None:
    """Run `task` with the configuration that the command line composes. Wrong input: one line, exit code 2. `about`
    is what --help says first."""

    composed = False

    def job(config: DictConfig) -> None:
        nonlocal composed
        composed = True
        try:
            refuse_unknown(config)
            typed = OmegaConf.to_object(config)
            assert isinstance(typed, TrainConfig)
            typed.validate()
            task(config)
        except UserError as error:
            leave_no_empty_folder()
            fail(str(error))
        except RunError as error:
            fail(str(error), code=1)
        except OSError as error:
            leave_no_empty_folder()
            if error.filename is None:  # not about a path that the user gave
                raise
            fail(f"{error.filename}: {error.strerror}; give run_dir, data.cache_dir and data.path as usable paths")
        except KeyboardInterrupt:
            leave_no_empty_folder()
            sys.exit(130)

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
        fail(one_line(error))  # whatever goes wrong this early comes from the command line


def refuse_unknown(config: DictConfig) -> None:
    """Raise UserError for a key added with + or removed with ~, which Hydra allows and nobody would read."""
    known, given = (list(dotted_keys(c)) for c in (OmegaConf.structured(TrainConfig), config))
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
    groups = {folder.name: ", ".join(sorted(file.stem for file in folder.glob("*.yaml"))) for folder in folders}
    choices = "\n".join(f"{name}: {options}" for name, options in groups.items())
    keys = OmegaConf.to_yaml(config).rstrip()
    return f"{about}\nChoices, as group=name\n\n{choices}\n\nKeys and their values now, as key=value\n\n{keys}"


def leave_no_empty_folder() -> None:
    """Remove the run's folder, which Hydra has made, if nothing was written there."""
    if HydraConfig.initialized():
        folder = Path(HydraConfig.get().runtime.output_dir or ".")
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def one_line(error: Exception) -> str:
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
    while cause and not getattr(cause, "full_key", None):
        cause = cause.__cause__
    if cause is None:
        return ": ".join(line.strip() for line in str(error).splitlines() if line.strip())
    key = str(getattr(cause, "full_key", ""))
    known = list(dotted_keys(OmegaConf.structured(TrainConfig)))
    if key not in known:
        return f"{key} is not a key of the configuration{did_you_mean(key, known)}"
    given = [argument for argument in sys.argv[1:] if argument.startswith(f"{key}=")]
    return f"{(given or [key])[-1]} must be {expected(key)}"


KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "list[str]": 'a list such as \'["The first.","The second."]\'',
    "None": "null",
}


def expected(key: str) -> str:
    """What a key's value must be, in words, from its type in the schema."""
    part: Any = TrainConfig
    *groups, last = key.split(".")
    for group in groups:
        part = get_type_hints(part)[group]
    written = next(f.type for f in fields(part) if f.name == last)
    return " or ".join(KINDS.get(kind, "a group of keys") for kind in str(written).split(" | "))


def dotted_keys(config: DictConfig, prefix: str = "") -> Iterator[str]:
    """Every key of a configuration, groups included, as it is written on the command line."""
    for key in map(str, config):
        yield f"{prefix}{key}"
        child = config._get_node(key)
        if isinstance(child, DictConfig):
            yield from dotted_keys(child, f"{prefix}{key}.")
