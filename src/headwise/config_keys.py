"""The keys of a configuration, as they are written on the command line, and the names that have changed.

[key for key, _ in schema_fields(TrainConfig())]    # model.vocab_size, model.block_size, ...
new_name("model.tied_head", True)                   # ("model.tie_embeddings", True)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import Field, fields, is_dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omegaconf import DictConfig

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
    for (old_key, old_value), (present_key, present_value) in RENAMED.items():
        if key == old_key and old_value in (value, ANY):
            return present_key, value if present_value is ANY else present_value
    return key, value


def with_new_names(values: dict, prefix: str = "") -> dict:
    """Return a group of a saved configuration, nested groups included, with the names of today. `prefix` is the
    group's own key and a dot."""
    result = {}
    for old, value in values.items():
        if isinstance(value, dict):
            result[old] = with_new_names(value, f"{prefix}{old}.")
        else:
            key, new_value = new_name(f"{prefix}{old}", value)
            result[key.removeprefix(prefix)] = new_value
    return result


def schema_fields(schema: Any, prefix: str = "") -> Iterator[tuple[str, Field]]:
    """Yield every key of a schema's instance that holds a value, as on the command line, and its field."""
    for one in fields(schema):
        value = getattr(schema, one.name)
        if is_dataclass(value):
            yield from schema_fields(value, f"{prefix}{one.name}.")
        else:
            yield f"{prefix}{one.name}", one


def dotted_keys(config: DictConfig | dict, prefix: str = "") -> Iterator[str]:
    """Yield every key of a configuration, groups included, as it is written on the command line."""
    from omegaconf import OmegaConf

    values: Any = config if isinstance(config, dict) else OmegaConf.to_container(config)
    for key, value in values.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from dotted_keys(value, f"{prefix}{key}.")
