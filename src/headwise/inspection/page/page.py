"""The attention page: one self-contained HTML file, opened from a disk, a notebook or a panel, without a network.

    page = render(View(title="my run", steps=[0, 500], prompts=[prompt], n_kv_head=2))
    write_text(folder / "view.html", page)

page.html is the page without its data; this file packs the data in. Patterns are stored as their lower triangles
in 8 bits on a square-root scale (8 linear bits would round away half of all weights at T = 256), each step as its
difference from the one before, deflated, in base64. Arrays that heads share, such as the keys and values of grouped
queries, are stored once.

Dimensions: S steps, L layers, H heads, T tokens, D head width.
"""

from __future__ import annotations

import base64
import html
import json
import math
import re
import zlib
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

TEMPLATE = Path(__file__).with_name("page.html")
BUDGET, BUDGET_OF_ONE = 3_000_000, 2_000_000  # bytes of the whole page, and of one that shows a single step
LOSSES = 2000  # points of one loss curve: more than a screen has pixels
NORMALIZE = ("softmax", "relu")


@dataclass
class HeadVectors:
    """One head at the last step, float32: from these the page computes the pattern again, step by step."""

    q: np.ndarray  # [T, D], as they meet the keys: normed and turned
    k: np.ndarray  # [T, D], those of the key/value head that this head reads
    v: np.ndarray  # [T, D]
    pattern: np.ndarray  # [T, T], the model's own


@dataclass
class Prompt:
    """One input, and what was seen of it at every step."""

    name: str
    labels: list[str]  # T tokens as they are shown (Tokenizer.label); anything may stand in them
    patterns: np.ndarray  # uint8 [S, L, H, T(T+1)/2], see `companded`
    value_norms: np.ndarray  # float32 [S, L, H, T]: |v_j W_O|; times the weights they are the value-weighted map
    scores: dict[str, np.ndarray]  # metric -> [S, L, H]; NaN where it does not apply
    vectors: dict[tuple[int, int], HeadVectors] = field(default_factory=dict)  # (layer, head) -> ..., the dearest first
    new: int | None = None  # the model itself wrote the tokens from this one on, seeing what is shown
    note: str = ""  # what else to know of these tokens


@dataclass
class View:
    """All that a page shows."""

    title: str
    steps: list[int]  # S logged steps, ascending; one for a finished model
    prompts: list[Prompt]
    n_kv_head: int  # H // n_kv_head heads share each key/value head
    normalize: str = "softmax"  # or "relu": max(score, 0) / number of visible keys
    losses: dict[str, list[tuple[int, float]]] = field(default_factory=dict)  # "train", "val" -> (step, loss)
    start: dict[str, Any] = field(default_factory=dict)  # what is shown first, in the words of the URL's hash


class Page(str):
    """The page as text, which a notebook shows as a page."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        style = "width: 100%; height: 600px; border: 0"
        page = html.escape(self)
        return f'<iframe srcdoc="{page}" sandbox="allow-scripts" style="{style}" title="Attention"></iframe>'


def companded(pattern: np.ndarray) -> np.ndarray:
    """Patterns [..., T, T] as uint8 [..., T(T+1)/2]: the lower triangle, row after row, as round(255 sqrt(weight)).
    The square of a 255th is at most 0.004 off. Weights above 1, which only relu knows, are stored as 1."""
    rows, columns = np.tril_indices(pattern.shape[-1])
    return np.round(255 * np.sqrt(pattern[..., rows, columns].clip(0, 1))).astype(np.uint8)


def render(view: View, budget: int | None = None) -> Page:
    """The page, of at most `budget` bytes if that can be; None is 3 MB, or 2 MB for a single step. What does not fit is
    left out, and the page says so: first steps between the first and the last, evenly, then vectors, the last of each
    prompt first. Vectors yield before steps only where they alone would take more than half of the budget. Raises
    ValueError if shapes disagree."""
    _check(view)
    budget = budget or (BUDGET if len(view.steps) > 1 else BUDGET_OF_ONE)
    turns = zip_longest(*([(prompt, at) for at in prompt.vectors] for prompt in view.prompts))
    heads = [head for turn in turns for head in turn if head is not None]
    steps = np.arange(len(view.steps))
    done: dict[bytes, str] = {}
    costs = _costs(heads, done)
    room = budget - min(costs[-1], budget // 2)
    page = _page(view, steps, [], budget, done)
    while len(page) > room and len(steps) > 2:
        count = max(2, min(len(steps) - 1, len(steps) * room // len(page)))
        steps = np.linspace(0, len(view.steps) - 1, count).round().astype(int)
        page = _page(view, steps, [], budget, done)
    count = sum(cost <= budget - len(page) for cost in costs[1:])
    return Page(_page(view, steps, heads[:count], budget, done) if count else page)


Head = tuple[Prompt, tuple[int, int]]


def _check(view: View) -> None:
    if view.normalize not in NORMALIZE:
        raise ValueError(f"normalize={view.normalize}: one of {', '.join(NORMALIZE)}")
    for prompt in view.prompts:
        heads, t = (len(view.steps), *prompt.patterns.shape[1:3]), len(prompt.labels)
        arrays = [("patterns", prompt.patterns, (*heads, t * (t + 1) // 2))]
        arrays += [("value_norms", prompt.value_norms, (*heads, t))]
        arrays += [(metric, scores, heads) for metric, scores in prompt.scores.items()]
        for name, array, shape in arrays:
            if array.shape != shape:
                raise ValueError(f"prompt {prompt.name}: {name} is {array.shape}, not {shape}")
        if prompt.patterns.dtype != np.uint8 or heads[2] % view.n_kv_head:
            raise ValueError(
                f"prompt {prompt.name}: {prompt.patterns.dtype}, {heads[2]} heads, {view.n_kv_head} shared"
            )


class _Blobs:
    """Arrays as text, each kept once. `done` holds what was deflated before."""

    def __init__(self, done: dict[bytes, str]) -> None:
        self.done = done
        self.places: dict[str, int] = {}

    def add(self, array: np.ndarray) -> int:
        """The place of an array among the texts."""
        raw = np.ascontiguousarray(array).tobytes()
        if raw not in self.done:
            self.done[raw] = base64.b64encode(zlib.compress(raw, 6)).decode()
        return self.places.setdefault(self.done[raw], len(self.places))

    def add_head(self, prompt: Prompt, at: tuple[int, int]) -> dict[str, Any]:
        """One head's vectors; of the pattern only the lower triangle."""
        one = prompt.vectors[at]
        arrays = {"q": one.q, "k": one.k, "v": one.v, "pattern": one.pattern[np.tril_indices(len(one.pattern))]}
        places = {name: self.add(array.astype("<f4")) for name, array in arrays.items()}
        return {"layer": int(at[0]), "head": int(at[1]), "width": one.q.shape[1], **places}


def _costs(heads: list[Head], done: dict[bytes, str]) -> list[int]:
    """Bytes that the vectors of none of these heads, of the first, of the first two, ... take in a page."""
    blobs, costs, counted = _Blobs(done), [0], 0
    for prompt, at in heads:
        blobs.add_head(prompt, at)
        new = list(blobs.places)[counted:]
        counted += len(new)
        costs.append(costs[-1] + 100 + sum(len(text) + 4 for text in new))
    return costs


def _page(view: View, steps: np.ndarray, heads: list[Head], budget: int, done: dict[bytes, str]) -> str:
    """The template, filled with these steps (their places among all) and these heads' vectors."""
    blobs = _Blobs(done)
    prompts = [_packed(prompt, steps, [at for p, at in heads if p is prompt], blobs) for prompt in view.prompts]
    stride = max([1, *(-(-len(points) // LOSSES) for points in view.losses.values())])
    data = {
        "format": 1,
        "title": view.title,
        "steps": [int(view.steps[i]) for i in steps],
        "kv_heads": view.n_kv_head,
        "normalize": view.normalize,
        "losses": {name: [[int(s), _number(y)] for s, y in points[::stride]] for name, points in view.losses.items()},
        "start": view.start,
        "stored": {
            "budget": budget,
            "steps": [len(steps), len(view.steps)],
            "heads": [len(heads), sum(len(prompt.vectors) for prompt in view.prompts)],
            "loss_stride": stride,
        },
        "prompts": prompts,
        "blobs": list(blobs.places),
    }
    text = json.dumps(data, allow_nan=False, default=str, separators=(",", ":"))  # ASCII: U+2028 and others escaped
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    parts = {"title": _text(view.title), "summary": _summary(view), "data": text}
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], TEMPLATE.read_text(encoding="utf-8"))


def _packed(prompt: Prompt, steps: np.ndarray, heads: list[tuple[int, int]], blobs: _Blobs) -> dict[str, Any]:
    patterns = prompt.patterns[steps]
    changes = patterns.copy()
    changes[1:] -= patterns[:-1]  # wraps, as it does when the page adds them up
    return {
        "name": prompt.name,
        "labels": prompt.labels,
        "new": prompt.new,
        "note": prompt.note,
        "layers": patterns.shape[1],
        "heads": patterns.shape[2],
        "patterns": blobs.add(changes),
        "value_norms": blobs.add(prompt.value_norms[steps].astype("<f4")),
        "scores": {name: [_number(x) for x in scores[steps].flat] for name, scores in prompt.scores.items()},
        "vectors": [blobs.add_head(prompt, at) for at in heads],
    }


def _number(x: float) -> float | None:
    """Five digits of a number; JSON has no NaN."""
    return float(f"{x:.5g}") if math.isfinite(x) else None


def _text(text: str) -> str:
    """Text for the page's markup; half characters, which no file can hold, become question marks."""
    return html.escape(text.encode("utf-8", "replace").decode())


def _summary(view: View) -> str:
    """The scores of every head at the last step, as plain tables that need no script."""
    tables = []
    for prompt in view.prompts:
        names = "".join(f'<th scope="col">{_text(name)}</th>' for name in prompt.scores)
        rows = []
        for layer, head in np.ndindex(*prompt.patterns.shape[1:3]):
            values = (float(scores[-1, layer, head]) for scores in prompt.scores.values())
            cells = "".join(f"<td>{x:.3g}</td>" if math.isfinite(x) else "<td>–</td>" for x in values)
            rows.append(f'<tr><th scope="row">{layer}.{head}</th>{cells}</tr>')
        caption = f"Prompt {_text(prompt.name)}, step {view.steps[-1]}: <q>{_text(' '.join(prompt.labels))}</q>"
        head_row = f'<tr><th scope="col">layer.head</th>{names}</tr>'
        tables.append(
            f"<table><caption>{caption}</caption><thead>{head_row}</thead><tbody>{''.join(rows)}</tbody></table>"
        )
    return "\n".join(tables)
