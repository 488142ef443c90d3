"""Checks of a configuration that need nothing else: each value against its range, and keys that do not go together.

    validate(config)        # raises UserError with the key, the value and what to give instead

No torch here: launch.py calls it before anything heavy is imported.
"""

from __future__ import annotations

import math
from operator import attrgetter, ge, gt, le, lt
from typing import Any

from headwise.config import DataConfig, GPTConfig, PrepareConfig, SweepConfig, TokenizerConfig, TrainConfig
from headwise.config_keys import schema_fields
from headwise.errors import require


def check_ranges(config: Any, prefix: str = "") -> None:
    """Raise UserError naming the first key, below `prefix`, whose value is out of its range. Null has no range."""
    for name, one in schema_fields(config):
        value, bounds = attrgetter(name)(config), one.metadata["bounds"]
        if bounds and value is not None:
            inside = all(WITHIN[bound](value, limit) for bound, limit in bounds.items()) and math.isfinite(value)
            number = "" if math.isfinite(value) else "a finite number, "
            require(inside, f"{prefix}{name}={value} must be {number}{range_in_words(bounds)}")


WITHIN = {"at_least": ge, "above": gt, "at_most": le, "below": lt}


def range_in_words(bounds: dict[str, float]) -> str:
    """Return a range in words, for messages and the help: 'at least 0 and below 1'."""
    return " and ".join(f"{bound.replace('_', ' ')} {limit:,}" for bound, limit in bounds.items())


def validate(config: TrainConfig | PrepareConfig | SweepConfig) -> None:
    """Raise UserError for everything that is wrong with a configuration and can be known without the text. For a
    sweep only its own keys are checked here; sweep/search.py checks those of its runs at each end of the space."""
    if isinstance(config, SweepConfig):
        check_ranges(config.sweep, "sweep.")
        remedy = "give the sweep's own run_dir again to continue it"
        require(config.resume is None, f"resume={config.resume} continues a single run; {remedy}")
        trainer = config.trainer
        by_steps = trainer.max_epochs is None and not trainer.fast_dev_run
        require(by_steps, "a sweep counts steps; give trainer.max_steps, not trainer.max_epochs or fast_dev_run")
        require(not config.estimate, f"estimate={config.estimate} is for a single run: train estimate=true")
        empty = "sweep.space is empty; choose a space (--help lists them) or give sweep.space=..."
        require(bool(config.sweep.space), empty)
        return
    check_ranges(config)
    validate_text(config.data, config.tokenizer)
    if isinstance(config, TrainConfig):
        validate_model(config.model)
        is_named = config.init_from is None or bool(config.init_from.strip())
        require(is_named, f"init_from={config.init_from} names nothing; give a model, or leave it out")


def validate_model(config: GPTConfig) -> None:
    """Raise UserError for values out of range, and for sizes that do not go together."""
    check_ranges(config, "model.")
    n_embd, n_head, sizes = config.n_embd, config.n_head, config.resolved()
    require(config.head_dim is not None or n_embd % n_head == 0, f"model.n_embd={n_embd} is not divisible by {n_head=}")
    divides = n_head % sizes.n_kv_head == 0
    require(divides, f"model.n_head={n_head} is not divisible by n_kv_head={sizes.n_kv_head}")
    is_even = config.position != "rotary" or sizes.head_dim % 2 == 0
    require(is_even, f"model.position=rotary rotates pairs of features, but the head's width is odd: {sizes.head_dim}")


def validate_text(data: DataConfig, tokenizer: TokenizerConfig) -> None:
    """Raise UserError for keys of the text and its tokenizer that do not go together."""
    source, kind = data.source, tokenizer.kind
    for owner, names in (("files", ("path", "url")), ("hub", ("name", "config", "val_split"))):
        for name in names:
            value, rule = getattr(data, name), f"is for data={owner}, but data.source is {source}"
            require(value is None or source == owner, f"data.{name}={value} {rule}; add data={owner}")
    rule = f"is for tokenizer=file, but tokenizer.kind is {kind}; add tokenizer=file"
    require(tokenizer.path is None or kind == "file", f"tokenizer.path={tokenizer.path} {rule}")
    require(bool(data.cache_dir), f"data.cache_dir={data.cache_dir} is empty; give a folder")
    of_files = data.format == "auto" or source == "files"
    require(of_files, f"data.format={data.format} is for data=files, but data.source is {source}; add data=files")
    for name in ("column", "join_rows", "max_documents", "skip_bad"):
        value, default = getattr(data, name), getattr(DataConfig, name)
        is_read = value == default or source in ("files", "hub")
        require(is_read, f"data.{name}={value} is for data=files and data=hub, but data.source is {source}")
    require(
        not data.val_path or not data.val_split, "data.val_path and data.val_split exclude each other; give one of them"
    )
    require(
        not data.streaming or bool(data.val_path or data.val_split) or data.split_by == "documents",
        f"data.split_by={data.split_by} needs the length of the text, which is unknown with data.streaming=true; "
        "give data.split_by=documents, or data.val_split",
    )
