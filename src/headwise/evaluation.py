"""How well a model predicts a text: the mean over every token, each predicted once."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from headwise import checkpoint
from headwise.data.sampler import ValBatches
from headwise.data.token_files import TokenFiles
from headwise.errors import require
from headwise.model.gpt import GPT, IGNORE, next_token_loss
from headwise.stream import END, Content, length, stream_of
from headwise.tokenizer import Tokenizer, batches


@torch.no_grad()
def mean_loss(logits_of: Callable[[Tensor], Tensor], batches: ValBatches) -> float:
    """Nats per token of a model in eval mode, or of any function from token ids [B, T] to logits [B, T, V]; a model
    may be on any device."""
    total, count = 0.0, 0
    device = next(logits_of.parameters()).device if isinstance(logits_of, nn.Module) else None
    for inputs, targets in batches:
        inputs, targets = inputs.to(device), targets.to(device)
        total += float(next_token_loss(logits_of(inputs), targets, reduction="sum"))
        count += int((targets != IGNORE).sum())
    return total / count


def whole_split(file: Path, packed: TokenFiles, device: str = "cpu") -> dict:
    """val_loss (nats per token) and val_bits_per_byte of a checkpoint over the whole validation split."""
    model = checkpoint.load(file).model.to(device)
    loss = mean_loss(model, ValBatches(packed.tokens("val"), model.config.block_size, packed.tokenizer.vocab_size))
    return {"val_loss": loss, "val_bits_per_byte": loss / math.log(2) / packed.bytes_per_token("val")}


def measure(model: GPT, tokenizer: Tokenizer, text: Content, what: str = "the text") -> dict[str, float]:
    """What a model makes of a text: loss (nats per token), perplexity, bits_per_byte, tokens. Every token but the first
    is predicted, from those before it in its window of block_size. `what` names the text where it is wrong."""
    encoded, characters, size = [], 0, 0
    for batch in batches(stream_of(text)):
        encoded.append(tokenizer.encode_batch(batch, np.dtype("u4"), characters, what))
        characters += length(batch)
        size += sum(len(piece.encode()) for piece in batch if piece is not END)
    ids = np.concatenate(encoded)
    require(len(ids) >= 2, f"{what} is {len(ids)} token long, and the first is not predicted; give two at least")
    loss = mean_loss(model, ValBatches(ids, model.config.block_size, model.config.vocab_size))
    bits = loss / math.log(2) * len(ids) / size
    return {"loss": loss, "perplexity": math.exp(loss), "bits_per_byte": bits, "tokens": len(ids)}
