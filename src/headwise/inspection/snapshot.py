"""One look at a finished model: the page of its attention for any text.

    from headwise.inspection.snapshot import look
    look("The kids were scared of the lions, so they left right away.")   # in a notebook; of the newest run's model

Knows where models come from; recorder.py looks again and again while one is trained.
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
from headwise.inspection.head_scores import OF_PATTERN, head_description, own_token, shares
from headwise.inspection.hooks import AttentionMap
from headwise.inspection.inputs import SHOWN, Input, ordinary_tokens, repeats_input
from headwise.inspection.page.page import Page, View, render
from headwise.inspection.plots import attention_grid
from headwise.inspection.recorder import COLUMNS, Scores, kept, page_prompt, scores_of, see

FEW = 8  # tokens; in fewer, the previous, the first and a token itself are often the same


@dataclass
class Reading:
    """A text to look at."""

    name: str
    ids: list[int]
    new: int | None = None  # the model wrote the tokens from this one on; None: it wrote none of them


def look(text: str, checkpoint: str | None = None) -> Page:
    """The page of a model's attention as it reads `text`. `checkpoint` is a run's folder, a .ckpt file, a Hugging Face
    folder or Hub name; None is the newest run."""
    model = load(checkpoint)
    return render(view_of(model, [reading_of(model, text)]))


def reading_of(checkpoint: Checkpoint, text: str, what: str = "the text") -> Reading:
    """A text as tokens; `what` names it where it is wrong. Raises UserError for one longer than the model sees."""
    ids, longest = checkpoint.tokenizer.encode(text, what), checkpoint.model.config.block_size
    require(len(ids) >= 2, f"{what} {text!r} is too short to attend in: give two tokens")
    require(len(ids) <= longest, f"{what} has {len(ids)} tokens, and the model sees {longest} at once; give fewer")
    return Reading("text", ids)


def view_of(checkpoint: Checkpoint, readings: list[Reading], start: dict | None = None) -> View:
    """The contents of that page; `start` is what it shows first. Of a text longer than the model sees, what it saw
    last."""
    tokenizer, config = checkpoint.tokenizer, checkpoint.model.config
    prompts = []
    for reading in readings:
        left_out = window_start(len(reading.ids) - 1, config.block_size)  # what the last token was chosen from, and it
        ids = reading.ids[left_out:][: config.block_size]
        require(len(ids) >= 2, f"{reading.name} is one token long, too short to attend in")
        model_input = Input(reading.name, torch.tensor([ids]))
        seen, _ = see(checkpoint.model, model_input.ids)
        table = head_table(checkpoint, model_input, seen)
        scores = {name: table[name] for name in COLUMNS if name in table}
        prompt = page_prompt(reading.name, [tokenizer.label(i) for i in ids], [kept(seen)], [scores], seen)
        prompt.new = written_here(reading, left_out, config.block_size)
        if left_out:
            part = f"{len(ids)} of {len(reading.ids)} tokens, those that the model saw last"
            prompt.note = (
                f"These are {part}; the first is number {left_out}. What is not underlined was the prompt's, "
                "or written while the model still saw other tokens."
            )
            say(f"{reading.name}: the page shows {part}")
        prompts.append(prompt)
        at = start and (start.get("layer"), start.get("head"))  # whose vectors must be there
        prompt.vectors = dict(sorted(prompt.vectors.items(), key=lambda item: item[0] != at))
    if start is None and prompts[0].new is not None:
        start = {"query": max(0, prompts[0].new - 1)}  # what the first token written was chosen from
    step = int(checkpoint.about.get("step", 0))
    return View(str(checkpoint.path), [step], prompts, config.kv_heads, config.attention, start=start or {})


def habits(checkpoint: Checkpoint, model_input: Input, seen: list[AttentionMap]) -> Scores:
    """What every head looks at, in shares: in the text, and in random tokens repeated for what is defined on them; and
    whether it copies."""
    scores: Scores = {}
    for repeats in repeats_input(ordinary_tokens(checkpoint.tokenizer), checkpoint.model.config.block_size):
        seen_repeats, _ = see(checkpoint.model, repeats.ids)
        scores |= scores_of(seen_repeats, repeats)
    own = np.stack([own_token(shares(one.pattern))[0] for one in seen])
    copying = {"ov_copying": EFFECTS["ov_copying"](checkpoint.model, model_input.ids).numpy()}
    return scores | scores_of(seen, model_input) | {"own_token": own} | copying


def head_table(checkpoint: Checkpoint, model_input: Input, seen: list[AttentionMap]) -> Scores:
    """Every score of every head: its habits, and what it does to predictions of the text."""
    scores = habits(checkpoint, model_input, seen)
    missing = {name: effect for name, effect in EFFECTS.items() if name not in scores}
    return scores | {name: effect(checkpoint.model, model_input.ids).numpy() for name, effect in missing.items()}


def written_here(reading: Reading, left_out: int, block_size: int) -> int | None:
    """The first token, counted from left_out, that the model wrote while it saw the text from left_out on."""
    if reading.new is None:
        return None
    chosen = (t for t in range(reading.new, len(reading.ids)) if window_start(t, block_size) == left_out)
    return next(chosen, len(reading.ids)) - left_out


def heads_of(checkpoint: Checkpoint, reading: Reading, effects: bool = True) -> list[dict[str, Any]]:
    """One row for each head: layer, head, its scores, with or without its effects on predictions, and in words what it
    seems to do."""
    model_input = Input(reading.name, torch.tensor([reading.ids]))
    seen, _ = see(checkpoint.model, model_input.ids)
    scores = (head_table if effects else habits)(checkpoint, model_input, seen)
    rows, few = [], f" (in {len(reading.ids)} tokens, few to tell by)" if len(reading.ids) < FEW else ""
    for layer, head in np.ndindex(checkpoint.model.config.n_layer, checkpoint.model.config.n_head):
        row = {name: float(values[layer, head]) for name, values in scores.items()}
        rows.append({"layer": layer, "head": head, **row, "words": head_description(row) + few})
    return rows


def sheet_of(view: View) -> Image.Image:
    """The attention grid of the page's prompt, from the maps it holds, as far as a sheet can show it."""
    prompt = view.prompts[0]
    length = min(SHOWN, len(prompt.labels))
    if length < len(prompt.labels):
        say(f"the picture shows the first {length} of {len(prompt.labels)} tokens")
    patterns = np.zeros((*prompt.patterns.shape[1:3], length, length))
    for (layer, head), vectors in prompt.vectors.items():
        patterns[layer, head] = vectors.pattern[:length, :length]
    scores = {name: prompt.scores[name][0] for name in OF_PATTERN}
    return attention_grid(patterns, prompt.labels[:length], scores, view.title)
