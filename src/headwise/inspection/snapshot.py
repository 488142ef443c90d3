"""The attention of a finished model for a text: the page, an attention grid, and a table of heads.

    from headwise.inspection.snapshot import show
    show("The kids were scared of the lions, so they left right away.")  # in a notebook; of the newest run's model
    show("The lions left.", "docs/example").save("lions.html")

recorder.py records a model again and again while it trains.
"""

from __future__ import annotations

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
from headwise.inspection.head_scores import OF_PATTERN, head_description, normalize_rows, own_token
from headwise.inspection.hooks import AttentionMap, run_and_capture
from headwise.inspection.inputs import MAX_DRAWN, Input, ordinary_tokens, repeats_input
from headwise.inspection.page.page import Page, Prompt, View, render
from headwise.inspection.plots import attention_grid
from headwise.inspection.recorder import SCORES, Scores, first_patterns, mean_scores, page_arrays

FEW_TOKENS = 8  # in a shorter text the previous, the first and a query's own token are often the same


@dataclass
class Text:
    """A tokenized text."""

    name: str
    ids: list[int]
    generated_from: int | None = None  # index of the first token that the model generated; None: none of them


def show(text: str, checkpoint: str | None = None) -> Page:
    """Return the page of a model's attention for `text`. `checkpoint` is a run's folder, a .ckpt file, a Hugging Face
    folder or Hub name; None is the newest run. Raise UserError if the text is too short or too long."""
    model = load(checkpoint)
    return render(text_view(model, [tokenize(model, text)]))


def tokenize(checkpoint: Checkpoint, text: str, key: str = "the text") -> Text:
    """Return a text as tokens. Raise UserError, which starts with `key`, for one that is too short or too long."""
    ids, block_size = checkpoint.tokenizer.encode(text, key), checkpoint.model.config.block_size
    require(len(ids) >= 2, f"{key} {text!r} has fewer than two tokens; give a longer text")
    require(len(ids) <= block_size, f"{key} has {len(ids)} tokens; give at most block_size={block_size}")
    return Text("text", ids)


def text_view(checkpoint: Checkpoint, texts: list[Text], start: dict | None = None) -> View:
    """Return the contents of the page of these texts; `start` is what it shows first. Of a text longer than block_size
    the page has the tokens that the model saw last."""
    config = checkpoint.model.config
    prompts = [text_prompt(checkpoint, text, start or {}) for text in texts]
    if start is None and prompts[0].generated_from is not None:
        start = {"query": max(0, prompts[0].generated_from - 1)}  # predicted the first generated token
    step = int(checkpoint.about.get("step", 0))
    return View(str(checkpoint.path), [step], prompts, config.n_kv_head, config.attention, start=start or {})


def text_prompt(checkpoint: Checkpoint, text: Text, start: dict) -> Prompt:
    """Return one text's part of the page. The vectors of the head in `start` are the last to be left out."""
    model, block_size, length = checkpoint.model, checkpoint.model.config.block_size, len(text.ids)
    offset = window_start(length - 1, block_size)  # of the window from which the last token was predicted
    ids = text.ids[offset:][:block_size]
    require(len(ids) >= 2, f"{text.name} has one token; attention needs two")
    maps, _ = run_and_capture(model, torch.tensor([ids]))
    scores = text_scores(checkpoint, ids, maps)
    patterns, norms = page_arrays(maps)
    heads = sorted(np.ndindex(*patterns.shape[:2]), key=lambda head: head != (start.get("layer"), start.get("head")))
    over_steps = {name: scores[name][None] for name in SCORES if name in scores}
    labels = [checkpoint.tokenizer.label(i) for i in ids]
    prompt = Prompt(text.name, labels, patterns[None], norms[None], over_steps, maps, heads)
    if text.generated_from is not None:
        in_window = (t for t in range(text.generated_from, length) if window_start(t, block_size) == offset)
        prompt.generated_from = next(in_window, length) - offset
    if offset:
        part = f"{len(ids)} of {length} tokens, those that the model saw last"
        say(f"{text.name}: the page shows {part}")
        prompt.note = (
            f"These are {part}; the first is number {offset}. What is not underlined was the prompt's, "
            "or written while the model still saw other tokens."
        )
    return prompt


def text_scores(checkpoint: Checkpoint, ids: list[int], maps: list[AttentionMap], effects: bool = True) -> Scores:
    """Return every head's scores [L, H] on a text of token `ids`, from its `maps`: shares of attention, those of
    repeats on repeated random tokens, OV copying and, with `effects`, all effects on predictions."""
    model, text = checkpoint.model, Input("text", torch.tensor([ids]))
    scores: Scores = {}
    for repeats in repeats_input(ordinary_tokens(checkpoint.tokenizer), model.config.block_size):
        scores |= mean_scores(run_and_capture(model, repeats.ids)[0], repeats)
    scores |= mean_scores(maps, text)
    scores["own_token"] = np.stack([own_token(normalize_rows(one.pattern))[0] for one in maps])
    names = EFFECTS if effects else ["ov_copying"]
    return scores | {name: EFFECTS[name](model, text.ids).numpy() for name in names}


def head_rows(checkpoint: Checkpoint, text: Text, effects: bool = True) -> list[dict[str, Any]]:
    """Return one row for each head: layer, head, its scores (see text_scores), and `words`, its description."""
    maps, _ = run_and_capture(checkpoint.model, torch.tensor([text.ids]))
    scores = text_scores(checkpoint, text.ids, maps, effects)
    few = f" (in {len(text.ids)} tokens, few to tell by)" if len(text.ids) < FEW_TOKENS else ""
    rows = []
    for layer, head in np.ndindex(*scores["own_token"].shape):
        row = {name: float(values[layer, head]) for name, values in scores.items()}
        rows.append({"layer": layer, "head": head, **row, "words": head_description(row) + few})
    return rows


def view_grid(view: View) -> Image.Image:
    """Return the attention grid of the view's first prompt, of at most MAX_DRAWN tokens."""
    prompt = view.prompts[0]
    length = min(MAX_DRAWN, len(prompt.labels))
    if length < len(prompt.labels):
        say(f"the picture shows the first {length} of {len(prompt.labels)} tokens")
    patterns = first_patterns(prompt.maps)[..., :length, :length]
    scores = {name: prompt.scores[name][0] for name in OF_PATTERN}
    return attention_grid(patterns, prompt.labels[:length], scores, view.title)
