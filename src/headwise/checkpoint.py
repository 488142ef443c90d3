"""A checkpoint is self-contained: weights, model configuration, tokenizer, and where it came from.

    checkpoint = load(find("runs/quickstart/2026-11-21_10-00-00"))
    checkpoint.model, checkpoint.tokenizer, checkpoint.about

It is Lightning's own file with one more entry, "headwise", of plain values; reading it needs torch and
tokenizers alone, and runs no code from the file.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from headwise.config import GPTConfig, with_new_names
from headwise.errors import UserError, require
from headwise.files import path_of
from headwise.model.gpt import GPT
from headwise.tokenizer import Tokenizer

MODEL_PREFIX = "model."  # where the LightningModule keeps the GPT


@dataclass
class Checkpoint:
    """What a checkpoint holds: a model in eval mode, its tokenizer, and plain facts about its making."""

    path: Path
    model: GPT
    tokenizer: Tokenizer
    about: dict


def describe(model: GPT, tokenizer: Tokenizer, about: dict) -> dict:
    """The entry "headwise" of a checkpoint file. `about` holds plain values only."""
    return {"model": asdict(model.config), "tokenizer": tokenizer.to_json(), "about": about}


def read(path: Path, key: str = "checkpoint") -> dict:
    """The raw contents of a checkpoint file, or a UserError when it is none of ours; `key` is what named it."""
    try:
        raw = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch has no one error for a file that is cut short, or is something else
        raise UserError(f"{key}={path} cannot be read as a checkpoint; it may be damaged") from error
    require(isinstance(raw, dict) and "headwise" in raw, f"{key}={path} was not written by Headwise")
    ours = raw["headwise"]
    ours["model"] = with_new_names(ours["model"], "model.")
    if "config" in ours["about"]:
        ours["about"]["config"] = with_new_names(ours["about"]["config"])
    return raw


def load(path: Path, device: str = "cpu") -> Checkpoint:
    """Read a checkpoint file; the model is in eval mode on `device`."""
    raw = read(path)
    ours = raw["headwise"]
    weights = {k.removeprefix(MODEL_PREFIX): v for k, v in raw["state_dict"].items()}
    model = GPT.from_weights(GPTConfig(**ours["model"]), weights)
    return Checkpoint(path, model.to(device).eval(), Tokenizer.from_json(ours["tokenizer"]), ours["about"])


def find(where: str | None = None, runs: str = "runs", key: str = "checkpoint") -> Path:
    """The checkpoint file meant by `where`: a .ckpt file, a run's folder (its best checkpoint, else its last), or
    None for the newest run under `runs`. `key` is where the user wrote it."""
    if where is None:
        found = sorted(Path(runs).rglob("checkpoints/*.ckpt"), key=lambda p: p.stat().st_mtime)
        require(bool(found), f"there is no checkpoint under {runs}/ yet: train first, or give --checkpoint PATH")
        return find(str(found[-1].parent.parent))
    path = path_of(where, key)
    if path.is_file():
        return path
    right = "give a run's folder, a .ckpt file or a Hugging Face folder"
    require(bool(where) and path.exists(), f"{key}={where} does not exist; {right}")
    for name in ("best.ckpt", "last.ckpt"):
        for folder in (path / "checkpoints", path):
            if (folder / name).is_file():
                return folder / name
    raise UserError(f"{key}={where} is a folder without checkpoints/best.ckpt, last.ckpt or config.json; {right}")
