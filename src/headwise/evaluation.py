"""How well a model predicts a text: the mean over every token, each predicted once."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from headwise import checkpoint
from headwise.data.datamodule import ValBatches
from headwise.data.packing import Packed
from headwise.model.gpt import GPT, IGNORE, next_token_loss


@torch.no_grad()
def mean_loss(model: GPT, batches: ValBatches) -> float:
    """Nats per token of a model in eval mode."""
    total, count, device = 0.0, 0, model.embedding.weight.device
    for inputs, targets in batches:
        total += float(next_token_loss(model(inputs.to(device)), targets.to(device), reduction="sum"))
        count += int((targets != IGNORE).sum())
    return total / count


def whole_split(file: Path, packed: Packed) -> dict:
    """val_loss (nats per token) and val_bits_per_byte of a checkpoint over the whole validation split."""
    model = checkpoint.load(file).model
    loss = mean_loss(model, ValBatches(packed.tokens("val"), model.config.block_size, packed.tokenizer.vocab_size))
    return {"val_loss": loss, "val_bits_per_byte": loss / math.log(2) / packed.bytes_per_token("val")}
