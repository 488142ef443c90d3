"""Views of a small model, made from real tensors, for the tests of the page."""

import json
import re

import numpy as np
import torch

from headwise.inspection.head_scores import pattern_scores
from headwise.inspection.hooks import capture
from headwise.inspection.page.page import Prompt, View, compand
from tests.small import randomize, small_model

STEPS = [0, 30, 110]
HOSTILE = [
    "</script>",
    "<img src=x onerror=alert(1)>",
    '"',
    "'",
    "<0xE2>",
    "🦁",
    "\x07",
    "\u202e",
    "␣The",
    "&amp;",
    "⏎",
]
IDS = {"text": [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5], "repeats": [2, 7, 1, 8, 4, 2, 7]}


def moments(attention="softmax", seed=0, position="rotary"):
    """What every prompt's forward passes showed: {prompt: [maps of step 0, of step 1, ...]}, 2 layers x 4 heads, the
    heads in groups of two."""
    model = randomize(
        small_model(n_head=4, n_kv_head=2, n_embd=20, head_dim=10, attention=attention, position=position)
    )
    for block in model.blocks:
        block.attention.q_norm.weight.data += 3  # queries that choose
    torch.manual_seed(seed)
    seen = {name: [] for name in IDS}
    for _ in STEPS:
        for p in model.parameters():
            p.data = p.data + 0.15 * torch.randn_like(p)
        for name, ids in IDS.items():
            with torch.no_grad(), capture(model) as maps:
                model(torch.tensor([ids]))
            seen[name].append(dict(maps))
    return seen


def labels_of(name):
    return HOSTILE if name == "text" else [f"t{i}" for i in IDS[name]]


def patterns_of(maps):
    """[L, H, T, T] of one forward pass."""
    return torch.stack([maps[layer].pattern[0] for layer in sorted(maps)])


def prompt_of(name, passes, heads):
    patterns = torch.stack([patterns_of(maps) for maps in passes])
    norms = [[(m.v[0].repeat_interleave(2, 0) @ m.w_o).norm(dim=-1) for m in maps.values()] for maps in passes]
    scores = {metric: values.numpy() for metric, values in pattern_scores(patterns).items()}
    scores["induction"] = np.full(patterns.shape[:3], np.nan)
    scores["a_new_metric"] = np.arange(patterns[..., 0, 0].numel()).reshape(patterns.shape[:3]) / 3
    norms = torch.stack([torch.stack(layers) for layers in norms]).numpy()
    return Prompt(
        name, labels_of(name), compand(patterns.numpy()), norms, scores, list(passes[-1].values()), list(heads)
    )


def view_of(seen, heads=((0, 1), (1, 2), (1, 3)), **changes):
    prompts = [prompt_of(name, passes, heads) for name, passes in seen.items()]
    losses = {"train": [(s, 3.0 - s / 100) for s in range(0, 111, 10)], "val": [(0, 3.1), (110, 2.2)]}
    normal = {"title": "runs/<b>small</b> & co", "steps": STEPS, "prompts": prompts, "n_kv_head": 2, "losses": losses}
    return View(**normal | changes)


def data_of(page):
    """What a page holds, as its script reads it."""
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])
