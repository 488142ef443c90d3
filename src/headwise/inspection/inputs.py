"""What a model is looked at with: prompts to show, a batch of held-out text, and random tokens repeated."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from headwise.console import say
from headwise.data.tokens import Tokens
from headwise.errors import require
from headwise.tokenizer import Tokenizer

SHOWN = 64  # tokens of a prompt, as many as an attention grid shows legibly
OWN = 40  # tokens of the text's own prompt
HELD_OUT = (8, 128)  # sequences and tokens of held-out text
REPEATS, LEAST = 8, 4  # sequences of random tokens repeated; tokens in each, at least
PROSE = re.compile(r"[^\W\d_]+( [^\W\d_]+[,.;:]?){5,}")  # a line of at least six words, single spaces between


@dataclass
class Input:
    """Tokens ids [B, T] that the model reads whenever it is looked at."""

    name: str
    ids: Tensor
    shown: bool = True  # the maps of the first sequence are drawn; otherwise it is for the numbers alone
    period: Tensor | None = None  # [B]: how many tokens are random before each sequence repeats itself


def prompt_input(name: str, ids: list[int], tokenizer: Tokenizer, block_size: int) -> Input:
    """A prompt as far as it can be shown. Raises UserError where there is nothing to attend to."""
    shown = min(SHOWN, block_size)
    where = f"callbacks.attention.prompts: {name} ({tokenizer.decode(ids)!r})"
    require(len(ids) >= 2, f"{where} is too short to attend in: give two tokens at least")
    require(shown >= 2, f"model.block_size={block_size} leaves nothing to attend to; give 2 at least")
    if len(ids) > shown:
        say(f"{name} is looked at up to its first {shown} of {len(ids)} tokens")
    return Input(name, torch.tensor([ids[:shown]]))


def own_input(text: str) -> str:
    """A stretch of the text itself to look at: from the first line that reads like prose, else from the start."""
    lines = text.splitlines(keepends=True)
    prose = (i for i, line in enumerate(lines[:500]) if PROSE.fullmatch(line.rstrip()))
    return "".join(lines[next(prose, 0) :])[:2000]


def held_out_input(tokens: Tokens, block_size: int) -> Input:
    """A batch spread evenly over held-out text, for numbers that one prompt is too short for."""
    batch, length = HELD_OUT
    length = min(length, block_size, len(tokens))
    starts = torch.linspace(0, len(tokens) - length, batch).long().unique().tolist()
    windows = [torch.from_numpy(tokens[start : start + length].astype(np.int64)) for start in starts]
    return Input("val", torch.stack(windows), shown=False)


def ordinary_tokens(tokenizer: Tokenizer) -> list[int]:
    """Tokens that do not end anything: no line's, no document's."""
    every = (i for i in range(tokenizer.vocab_size) if i != tokenizer.end_of_text)
    return [i for i in every if "\n" not in tokenizer.decode([i])]


def repeats_input(tokens: Sequence[int], block_size: int) -> list[Input]:
    """Some of these tokens at random, then the same again and again; how many differs from sequence to sequence, so
    that looking back by a fixed distance does not help (Olsson et al. 2022). Always the same ones; none where nothing
    can repeat."""
    random = torch.Generator().manual_seed(0)
    length = min(SHOWN, block_size)
    if length < LEAST or not tokens:
        return []
    period = torch.randint(max(1, length // 4), length // 2 + 1, (REPEATS,), generator=random).clamp(max=len(tokens))
    rows = []
    for p in period.tolist():
        order = torch.randperm(len(tokens), generator=random)[:p]  # no token twice, so that what follows is certain
        rows.append(torch.tensor(tokens)[order].repeat(-(-length // p))[:length])
    return [Input("repeats", torch.stack(rows), period=period)]
