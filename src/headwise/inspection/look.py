"""One look at a finished model: the page of its attention for any text.

    from headwise.inspection.look import look
    look("The kids were scared of the lions, so they left right away.")   # in a notebook; of the newest run's model

Knows where models come from; recorder.py looks again and again while one is trained.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from headwise.checkpoint import Checkpoint
from headwise.cli import say
from headwise.errors import require
from headwise.hf import open_model
from headwise.inspection.capture import AttentionMap
from headwise.inspection.effects import EFFECTS
from headwise.inspection.heads import OF_PATTERN
from headwise.inspection.plots import contact_sheet
from headwise.inspection.probes import SHOWN, Probe, ordinary_tokens, repeats_probe
from headwise.inspection.recorder import COLUMNS, Scores, kept, page_prompt, scores_of, see
from headwise.inspection.viewer import Page, View, render


def look(text: str, checkpoint: str | None = None) -> Page:
    """The page of a model's attention as it reads `text`. `checkpoint` is a run's folder, a .ckpt file, a Hugging Face
    folder or Hub name; None is the newest run."""
    model = open_model(checkpoint)
    return render(view_of(model, text))


def view_of(checkpoint: Checkpoint, text: str, what: str = "the text", start: dict | None = None) -> View:
    """The contents of that page; `start` is what it shows first. `what` names the text where it is wrong."""
    probe = text_probe(checkpoint, text, what)
    seen, _ = see(checkpoint.model, probe.ids)
    labels = [checkpoint.tokenizer.label(i) for i in probe.ids[0].tolist()]
    step = int(checkpoint.about.get("step", 0))
    scores = head_table(checkpoint, probe, seen)
    prompt = page_prompt("text", labels, [kept(seen)], [scores], seen)
    config = checkpoint.model.config
    return View(str(checkpoint.path), [step], [prompt], config.kv_heads, config.attention, start=start or {})


def text_probe(checkpoint: Checkpoint, text: str, what: str) -> Probe:
    """The text as tokens. Raises UserError for one too short or too long for the model."""
    ids, longest = checkpoint.tokenizer.encode(text, what), checkpoint.model.config.block_size
    require(len(ids) >= 2, f"{what} {text!r} is too short to attend in: give two tokens")
    require(len(ids) <= longest, f"{what} has {len(ids)} tokens, and the model sees {longest} at once; give fewer")
    return Probe("text", torch.tensor([ids]))


def head_table(checkpoint: Checkpoint, probe: Probe, seen: list[AttentionMap]) -> Scores:
    """Every score of every head: on the text, or on random tokens repeated for what is defined on them."""
    model = checkpoint.model
    scores: Scores = {}
    for repeats in repeats_probe(ordinary_tokens(checkpoint.tokenizer), model.config.block_size):
        seen_repeats, _ = see(model, repeats.ids)
        scores |= scores_of(seen_repeats, repeats)
    scores |= scores_of(seen, probe)
    scores |= {name: effect(model, probe.ids).numpy() for name, effect in EFFECTS.items()}
    return {name: np.asarray(scores[name]) for name in COLUMNS if name in scores}


def sheet_of(view: View) -> Image.Image:
    """The contact sheet of the page's prompt, from the maps it holds, as far as a sheet can show it."""
    prompt = view.prompts[0]
    length = min(SHOWN, len(prompt.labels))
    if length < len(prompt.labels):
        say(f"the picture shows the first {length} of {len(prompt.labels)} tokens")
    patterns = np.zeros((*prompt.patterns.shape[1:3], length, length))
    for (layer, head), vectors in prompt.vectors.items():
        patterns[layer, head] = vectors.pattern[:length, :length]
    scores = {name: prompt.scores[name][0] for name in OF_PATTERN}
    return contact_sheet(patterns, prompt.labels[:length], scores, view.title)
