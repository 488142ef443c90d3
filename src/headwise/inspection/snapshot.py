"""Show the attention of a finished model on a text: the page, an attention grid, and the scores of every head.

    show("The kids were scared of the lions, so they left right away.")  # in a notebook; the model of the newest run
    show("The lions left.", "docs/example").save("lions.html")
    head_scores(load("docs/example"), "The lions left.")[0]["previous_token"]

recorder.py takes snapshots of a model while it trains.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from headwise.checkpoint import Checkpoint, load
from headwise.console import say
from headwise.errors import require
from headwise.generation.generate import window_start
from headwise.inspection.effects import EFFECTS
from headwise.inspection.head_scores import PATTERN_METRICS, head_description, normalize_rows, own_token
from headwise.inspection.inputs import MAX_DRAWN, Input, ordinary_tokens, repeats_inputs
from headwise.inspection.page.page import Page, Prompt, View, render
from headwise.inspection.plots import attention_grid
from headwise.inspection.recorder import (
    Snapshot,
    first_patterns,
    head_metrics,
    page_arrays,
    page_normalize,
    page_prompt,
    take_snapshot,
)

FEW_TOKENS = 8  # in a shorter text the previous, the first and a query's own token are often the same


@dataclass
class TokenizedText:
    """A tokenized text."""

    name: str
    ids: list[int]
    generated_from: int | None = None  # index of the first token that the model generated; None: none of them


def show(text: str, checkpoint: Checkpoint | str | None = None) -> Page:
    """Return the page of a model's attention on a text. A notebook displays it inline; .save(path) writes it to a file.

    `checkpoint` is a loaded one, or a run's folder, a .ckpt file, a Hugging Face folder or Hub name; None is the newest
    run under runs/. Raise UserError if there is no such checkpoint, or if the text is too short or too long.
    """
    loaded = checkpoint if isinstance(checkpoint, Checkpoint) else load(checkpoint)
    return render(text_view(loaded, [tokenize(loaded, text)]))


def head_scores(checkpoint: Checkpoint, text: str, effects: bool = True) -> list[dict[str, Any]]:
    """Return one row for each head, with the keys of heads.csv, `own_token`, and `description`, the head in words.

    The metrics of repeated tokens are measured on repeated random tokens, all others on the text. effects=False leaves
    out importance, mean_ablation and logit_attribution, which take a backward pass or a forward pass for each head.
    Raise UserError if the text is too short or too long.
    """
    ids = tokenize(checkpoint, text).ids
    snapshot = text_snapshot(checkpoint, "text", ids, EFFECTS if effects else ["ov_copying"])
    scores = {name: snapshot.main_scores[name] for name in head_metrics() if name in snapshot.main_scores}
    scores["own_token"] = np.stack([own_token(normalize_rows(one.pattern))[0] for one in snapshot.maps["text"]])
    snapshot.scores = {"text": scores}
    uncertain = f" (measured on only {len(ids)} tokens)" if len(ids) < FEW_TOKENS else ""
    return [row | {"description": head_description(row) + uncertain} for row in snapshot.rows]


def tokenize(checkpoint: Checkpoint, text: str, key: str = "the text") -> TokenizedText:
    """Return a text as tokens. Raise UserError, which starts with `key`, if it is too short or too long."""
    ids, block_size = checkpoint.tokenizer.encode(text, key), checkpoint.model.config.block_size
    require(len(ids) >= 2, f"{key} {text!r} has fewer than two tokens; give a longer text")
    require(len(ids) <= block_size, f"{key} has {len(ids)} tokens; give at most block_size={block_size}")
    return TokenizedText("text", ids)


def text_snapshot(checkpoint: Checkpoint, name: str, ids: list[int], effects: Iterable[str] = EFFECTS) -> Snapshot:
    """Return the snapshot of a text's token ids and of repeated random tokens."""
    repeats = repeats_inputs(ordinary_tokens(checkpoint.tokenizer), checkpoint.model.config.block_size)
    inputs = [Input(name, torch.tensor([ids])), *repeats]
    return take_snapshot(checkpoint.model, inputs, int(checkpoint.about.get("step", 0)), effects)


def text_view(checkpoint: Checkpoint, texts: list[TokenizedText], start: dict[str, Any] | None = None) -> View:
    """Return the contents of the page of these texts; `start` is what it shows first. For a text longer than
    block_size it shows the model's last context window."""
    config = checkpoint.model.config
    prompts = [text_prompt(checkpoint, text, start or {}) for text in texts]
    if start is None and prompts[0].generated_from is not None:
        start = {"query": max(0, prompts[0].generated_from - 1)}  # the token that predicted the first generated one
    step = int(checkpoint.about.get("step", 0))
    return View(str(checkpoint.path), [step], prompts, config.n_kv_head, page_normalize(config), start=start or {})


def text_prompt(checkpoint: Checkpoint, text: TokenizedText, start: dict[str, Any]) -> Prompt:
    """Return one text's part of the page. The q, k and v of the head in `start` are the last to be left out."""
    block_size, length = checkpoint.model.config.block_size, len(text.ids)
    offset = window_start(length - 1, block_size)  # of the window from which the last token was predicted
    ids = text.ids[offset:][:block_size]
    require(len(ids) >= 2, f"{text.name} has one token; attention maps need at least two")
    snapshot = text_snapshot(checkpoint, text.name, ids)
    maps, labels = snapshot.maps[text.name], [checkpoint.tokenizer.label(i) for i in ids]
    prompt = page_prompt(text.name, labels, [page_arrays(maps, snapshot.main_scores)], maps, checkpoint.config)
    if prompt.heads is None:
        all_heads = np.ndindex(len(maps), checkpoint.model.config.n_head)
        prompt.heads = sorted(all_heads, key=lambda head: head != (start.get("layer"), start.get("head")))
    if text.generated_from is not None:
        in_window = (t for t in range(text.generated_from, length) if window_start(t, block_size) == offset)
        prompt.generated_from = next(in_window, length) - offset
    if offset:
        part = f"the last {len(ids)} of {length} tokens, the model's last context window"
        say(f"{text.name}: the page shows {part}")
        prompt.note += (
            f" These are {part}; the first is number {offset}. Tokens that are not underlined belong to the prompt, or "
            "were generated while the window still held earlier tokens."
        )
    return prompt


def view_grid(view: View) -> Image.Image:
    """Return the attention grid of the view's first text, of at most MAX_DRAWN tokens."""
    prompt = view.prompts[0]
    length = min(MAX_DRAWN, len(prompt.labels))
    if length < len(prompt.labels):
        say(f"the picture shows the first {length} of {len(prompt.labels)} tokens")
    patterns = first_patterns(prompt.maps)[..., :length, :length]
    scores = {name: prompt.scores[name][0] for name in PATTERN_METRICS}
    return attention_grid(patterns, prompt.labels[:length], scores, view.title)
