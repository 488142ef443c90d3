"""The typed schema behind configs/: every key, its type and its default. launch.py hands it to Hydra.

Torch is not imported here, so --help answers at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from omegaconf import DictConfig

from headwise.errors import require
from headwise.model.config import GPTConfig


@dataclass
class TokenizerConfig:
    kind: str = "char"  # char, byte, bpe, file
    vocab_size: int = 1024  # for bpe; char has as many tokens as the text has characters, byte 256
    path: str | None = None  # for file: a tokenizer.json, or a folder or Hub name of one


@dataclass
class DataConfig:
    source: str = "python_docs"  # python_docs, files, hub, repeats
    path: str | None = None  # for files: a text file, a folder of them, or a glob
    url: str | None = None  # for files: where data.path is fetched from if it is not there yet
    skip_bad: bool = False  # leave out files that cannot be read, rather than stop
    name: str | None = None  # for hub: the dataset, such as roneneldan/TinyStories
    config: str | None = None  # for hub: its configuration, where it has several
    split: str = "train"  # for hub: the split to train on
    val_split: str | None = None  # for hub: the split to validate on; null: hold out a part
    streaming: bool = False  # for hub: read rows over the network and keep their tokens alone
    column: str = "text"  # of .jsonl, .csv, .parquet and hub: the one that holds the text
    join_rows: bool = False  # all rows are lines of one document; false: each is a document, which a token ends
    max_documents: int | None = None  # take so many of each text, the first
    val_path: str | None = None  # validate on this text instead of holding out a part
    val_fraction: float = 0.1  # held out for validation
    split_by: str = "characters"  # the last characters; documents: whole ones, evenly spaced
    batch_size: int = 32  # windows for each forward pass
    global_batch_size: int | None = None  # windows for each optimizer step; null: batch_size x devices
    val_tokens: int | None = None  # validate on so many tokens while training; null: the whole split
    cache_dir: str = "data/cache"  # packed tokens, reused
    num_proc: int | None = None  # processes that tokenize; null: threads


@dataclass
class OptimizerConfig:
    kind: str = "adamw"  # adamw, muon
    lr: float = 1e-3  # AdamW's
    beta1: float = 0.9
    beta2: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.1
    muon_lr: float = 0.02  # of the matrices inside the blocks, with kind=muon
    muon_momentum: float = 0.95
    muon_weight_decay: float = 0.0
    ns_steps: int = 5  # of Newton and Schulz


@dataclass
class ScheduleConfig:
    kind: str = "cosine"  # cosine, linear, wsd, constant
    warmup_steps: int = 100
    min_lr_ratio: float = 0.1  # the last step's rates, as a part of the optimizer's
    decay_fraction: float = 0.2  # for wsd: the last part of the run, in which the rates fall


@dataclass
class TrainerConfig:
    """Flags of lightning.Trainer; val_check_interval and log_every_n_steps count optimizer steps."""

    max_steps: int = 2000
    max_time: str | None = None  # DD:HH:MM:SS
    accelerator: str = "auto"
    devices: Any = 1
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "auto"  # auto, 32-true, bf16-mixed, bf16-true, 64-true
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
class EarlyStoppingConfig:
    patience: int | None = None  # stop after so many validations without a new best; null: never


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
    early_stopping: EarlyStoppingConfig = field(default_factory=EarlyStoppingConfig)


class Checked:
    """A configuration that can say which of its values is wrong."""

    tokenizer: TokenizerConfig
    data: DataConfig

    def check(self, key: str, right: Callable[[Any], bool], rule: str) -> None:
        """Raise UserError naming the key, its value and the rule, unless the value is null or right."""
        value = attrgetter(key)(self)
        require(value is None or right(value), f"{key}={value} {rule}")

    def check_text(self) -> None:
        """Raise UserError for what is wrong about the text and its tokenizer, before any of it is read."""
        source, kind, data = self.data.source, self.tokenizer.kind, self.data
        for owner, names in (("files", ("path", "url")), ("hub", ("name", "config", "val_split"))):
            for name in names:
                value, rule = getattr(data, name), f"is for data={owner}, and the text is that of {source}"
                require(value is None or source == owner, f"data.{name}={value} {rule}; add data={owner}")
        rule = f"is for tokenizer=file, and the tokenizer is {kind}; add tokenizer=file"
        require(self.tokenizer.path is None or kind == "file", f"tokenizer.path={self.tokenizer.path} {rule}")
        self.check("tokenizer.vocab_size", lambda value: value >= 256, "must be at least 256, one token for each byte")
        self.check("tokenizer.vocab_size", lambda value: value <= 1 << 24, "must be at most 16,777,216")
        self.check("data.cache_dir", bool, "is empty; give a folder")
        for name in ("column", "join_rows", "max_documents", "skip_bad"):
            value, usual = getattr(data, name), getattr(DataConfig, name)
            own = value == usual or source in ("files", "hub")
            require(own, f"data.{name}={value} is for data=files and data=hub, and the text is that of {source}")
        for key in ("data.max_documents", "data.num_proc"):
            self.check(key, lambda value: value >= 1, "must be at least 1")
        self.check("data.val_fraction", lambda value: 0 < value < 1, "must be above 0 and below 1")
        val = data.val_path or data.val_split
        require(not data.val_path or not data.val_split, "data.val_path and data.val_split are two; give one of them")
        require(
            not data.streaming or bool(val) or data.split_by == "documents",
            f"data.split_by={data.split_by} needs the length of the text, which data.streaming=true does not know; "
            "give data.split_by=documents, or data.val_split",
        )


@dataclass
class PrepareConfig(Checked):
    """All of configs/prepare.yaml."""

    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    data: DataConfig = field(default_factory=DataConfig)
    plot: bool = False  # draw how long documents and how frequent tokens are

    def validate(self) -> None:
        """Raise UserError for a number out of its range."""
        self.check_text()


@dataclass
class TrainConfig(Checked):
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
    compile: Any = "auto"  # auto (where the run is long enough to repay it), true, false
    estimate: bool = False  # say what the run will take, and stop
    init_from: str | None = None  # start from this model: a run, a .ckpt file, a Hugging Face folder or Hub name
    resume: str | None = None  # auto, a run's folder or a checkpoint
    run_dir: str = "???"

    def validate(self) -> None:
        """Raise UserError for a number out of its range. The tables of kinds are checked where they live."""
        self.model.validate()
        for key in (
            *("data.batch_size", "data.global_batch_size", "threads", "trainer.max_steps", "optimizer.ns_steps"),
            *("trainer.val_check_interval", "trainer.log_every_n_steps", "callbacks.attention.every_n_steps"),
            *("callbacks.checkpoint.every_n_steps", "callbacks.samples.every_n_steps", "data.val_tokens"),
            "callbacks.early_stopping.patience",
        ):
            self.check(key, lambda value: value >= 1, "must be at least 1")
        for key in (
            *("optimizer.weight_decay", "optimizer.muon_weight_decay", "schedule.warmup_steps"),
            *("callbacks.samples.tokens", "callbacks.samples.temperature"),
        ):
            self.check(key, lambda value: value >= 0, "must be at least 0")
        self.check("init_from", lambda value: value.strip(), "names nothing; give a model, or leave it out")
        self.check_text()
        self.check("seed", lambda value: 0 <= value < 1 << 32, "must be at least 0 and below 2^32")
        for key in ("optimizer.lr", "optimizer.muon_lr", "optimizer.eps", "trainer.gradient_clip_val"):
            self.check(key, lambda value: 0 < value < math.inf, "must be above 0, and a number")
        for key in ("optimizer.beta1", "optimizer.beta2", "optimizer.muon_momentum"):
            self.check(key, lambda value: 0 <= value < 1, "must be at least 0 and below 1")
        self.check("schedule.decay_fraction", lambda value: 0 < value <= 1, "must be above 0 and at most 1")
        self.check("schedule.min_lr_ratio", lambda value: 0 <= value <= 1, "must lie between 0 and 1")

    def global_batch(self, devices: int) -> int:
        """Windows for each optimizer step, over all devices."""
        return self.data.global_batch_size or self.data.batch_size * devices

    def accumulate(self, devices: int) -> int:
        """Forward passes of each device for each optimizer step. Raises UserError if the batches do not divide."""
        whole, part = self.global_batch(devices), self.data.batch_size * devices
        each = f"data.batch_size={self.data.batch_size}" + (f" x {devices} devices" if devices > 1 else "")
        require(whole % part == 0, f"data.global_batch_size={whole} is not divisible by {each}")
        return whole // part


@dataclass
class SearchConfig:
    """What scripts/sweep.py tries, and how."""

    space: dict[str, Any] = field(default_factory=dict)  # key: [choices] or {low, high, log, step}; see sweep/space.py
    n_trials: int | None = None  # those that failed or were pruned included; null: 20, with grid every combination
    sampler: str = "tpe"  # tpe, random, grid
    pruner: str = "halving"  # halving, none
    # At each rung one trial of so many goes on, and the next rung comes after so many times the steps.
    reduction_factor: int = 3
    min_steps: int | None = None  # the first rung; null: trainer.val_check_interval
    seed: int = 0  # of the sampler
    n_jobs: int = 1  # processes that train at a time; 0: train, and leave the report to another
    storage: str | None = None  # the journal that all processes share; null: study/journal.log in run_dir


@dataclass
class SweepConfig(TrainConfig):
    """All of configs/sweep.yaml: what every run has, and what varies."""

    sweep: SearchConfig = field(default_factory=SearchConfig)

    def validate(self) -> None:
        """Raise UserError for a number out of its range. What a run has is checked with what varies."""
        self.check("sweep.n_trials", lambda value: value >= 1, "must be at least 1")
        self.check("sweep.min_steps", lambda value: value >= 1, "must be at least 1")
        self.check("sweep.reduction_factor", lambda value: value >= 2, "must be at least 2")
        self.check("sweep.n_jobs", lambda value: value >= 0, "must be at least 0")
        self.check("sweep.seed", lambda value: 0 <= value < 1 << 32, "must be at least 0 and below 2^32")
        where = "give the sweep's own run_dir again, and it goes on where it stood"
        self.check("resume", lambda _: False, f"goes on with one run; {where}")
        self.check("estimate", lambda value: not value, "is for one run: scripts/train.py estimate=true")
        require(
            bool(self.sweep.space), "sweep.space is empty; choose a space (--help lists them) or give sweep.space=..."
        )


ANY = object()  # any value, which stays as it is
RENAMED: dict[tuple[str, Any], tuple[str, Any]] = {  # name and value in version 0.1 -> those of today
    ("model", "classic"): ("model", "gpt2"),
    ("model", "modern"): ("model", "qwen3"),
    ("model.init", "gpt2"): ("model.init", "scaled_normal"),
    ("model.tied_head", ANY): ("model.tie_embeddings", ANY),
    ("model.rotary_base", ANY): ("model.rope_theta", ANY),
    ("data.hold_out", "position"): ("data.split_by", "characters"),
    ("data.hold_out", ANY): ("data.split_by", ANY),
    ("data.rows", "documents"): ("data.join_rows", False),
    ("data.rows", "lines"): ("data.join_rows", True),
    ("sweep.reduction", ANY): ("sweep.reduction_factor", ANY),
    ("sweep.jobs", ANY): ("sweep.n_jobs", ANY),
    ("optimizer.muon_iterations", ANY): ("optimizer.ns_steps", ANY),
}


def new_name(key: str, value: Any) -> tuple[str, Any]:
    """Return the present key and value of those that version 0.1 may have written."""
    new_key, new_value = RENAMED.get((key, value)) or RENAMED.get((key, ANY)) or (key, value)
    return new_key, value if new_value is ANY else new_value


def with_new_names(values: dict, prefix: str = "") -> dict:
    """Return a group of a saved configuration, nested groups included, with the names of today. `prefix` is the
    group's own key and a dot."""
    result = {}
    for old, value in values.items():
        if isinstance(value, dict):
            result[old] = with_new_names(value, f"{prefix}{old}.")
        else:
            key, new_value = new_name(f"{prefix}{old}", value if isinstance(value, str) else ANY)
            result[key.removeprefix(prefix)] = value if new_value is ANY else new_value
    return result


def dotted_keys(config: DictConfig, prefix: str = "") -> Iterator[str]:
    """Every key of a configuration, groups included, as it is written on the command line."""
    for key in map(str, config):
        yield f"{prefix}{key}"
        child = config._get_node(key)
        if isinstance(child, DictConfig):
            yield from dotted_keys(child, f"{prefix}{key}.")
