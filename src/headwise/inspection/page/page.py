"""Make the attention page: one self-contained HTML file that opens from a disk, in a notebook or in a panel.

    page = render(View(title="my run", steps=[0, 500], prompts=[prompt], n_kv_head=2))
    page.save("view.html")

The parts are page.html, page.css, app.js, and the data. Patterns are stored as their lower triangles in 8 bits on a
square-root scale (8 linear bits would round half of all weights to 0 at T = 256), each step as its difference from the
step before, deflated, in base64. Arrays that heads share, such as the keys and values of grouped queries, are stored
once.

Dimensions: S steps, L layers, H heads, T tokens, D head_dim.
"""

from __future__ import annotations

import base64
import html
import json
import math
import re
import zlib
from bisect import bisect_right
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from headwise.files import write_text
from headwise.inspection.hooks import AttentionMap

FOLDER = Path(__file__).parent
MAX_BYTES, MAX_BYTES_ONE_STEP = 3_000_000, 2_000_000  # of the whole page, and of a page with a single step
MAX_LOSSES = 2000  # points of one loss curve; a screen has no more pixels
NORMALIZE = ("softmax", "relu")
Head = tuple[int, int]  # layer, head


@dataclass
class Prompt:
    """One input, with its patterns and scores at every step."""

    name: str
    labels: list[str]  # T tokens as they are shown (Tokenizer.label), any characters
    patterns: np.ndarray  # uint8 [S, L, H, T(T+1)/2], see `compand`
    value_norms: np.ndarray  # float32 [S, L, H, T]: |v_j W_O|; weights times these are value-weighted
    scores: dict[str, np.ndarray]  # metric -> [S, L, H]; NaN where it does not apply
    maps: list[AttentionMap] = field(default_factory=list)  # of the last step, one for each layer; or empty
    heads: list[Head] | None = None  # heads whose q, k and v are stored, the most important first; None: all of maps
    generated_from: int | None = None  # index of the first token that the model generated; None: none of them
    note: str = ""  # shown beside the tokens


@dataclass
class View:
    """The contents of a page."""

    title: str
    steps: list[int]  # S recorded steps, ascending; one for a finished model
    prompts: list[Prompt]
    n_kv_head: int  # H // n_kv_head heads share each key/value head
    normalize: str = "softmax"  # or "relu": max(score, 0) / number of visible keys
    losses: dict[str, list[tuple[int, float]]] = field(default_factory=dict)  # "train", "val" -> (step, loss)
    start: dict[str, Any] = field(default_factory=dict)  # what is shown first, in the terms of the URL's hash


class Page(str):
    """The HTML of a page. A notebook displays it inline; elsewhere its repr is one line. `contents` says what the page
    shows."""

    contents: str

    def __new__(cls, text: str, contents: str = "") -> Page:
        page = super().__new__(cls, text)
        page.contents = contents
        return page

    def save(self, path: str | Path) -> None:
        """Write the page to a file."""
        write_text(Path(path), self)

    def __repr__(self) -> str:
        size = len(self) / 1e6
        return f"<attention page: {self.contents}, {size:.1f} MB; write it to a file with .save('view.html')>"

    def _repr_html_(self) -> str:
        """Return an iframe that holds the page and may run scripts, but has no access to the notebook."""
        style = "width: 100%; height: 600px; border: 0"
        page = html.escape(self)
        return f'<iframe srcdoc="{page}" sandbox="allow-scripts" style="{style}" title="Attention"></iframe>'


def compand(pattern: np.ndarray) -> np.ndarray:
    """Return patterns [..., T, T] as uint8 [..., T(T+1)/2]: the lower triangle, row after row, as
    round(255 sqrt(weight)), which is off by at most 0.004. Weights above 1, which only relu has, are stored as 1."""
    rows, columns = np.tril_indices(pattern.shape[-1])
    return np.round(255 * np.sqrt(pattern[..., rows, columns].clip(0, 1))).astype(np.uint8)


def render(view: View, max_bytes: int | None = None) -> Page:
    """Return the page, of at most `max_bytes` if possible; None means 3 MB, or 2 MB for a single step. Raise ValueError
    if the shapes of the view's arrays do not match.

    What does not fit is left out, and the page says so: first steps between the first and the last, evenly, then q, k
    and v of the last heads of each prompt. These are left out before steps only where they alone would take more than
    half of the page."""
    _require_matching_shapes(view)
    max_bytes = max_bytes or (MAX_BYTES if len(view.steps) > 1 else MAX_BYTES_ONE_STEP)
    builder, steps = _Builder(view, max_bytes), np.arange(len(view.steps))
    n_heads = len(builder.heads)
    complete = builder.build(steps, n_heads)
    if len(complete) <= max_bytes:
        return Page(complete, _contents(view))
    page = builder.build(steps, 0)
    room = max_bytes - min(len(complete) - len(page), max_bytes // 2)  # for steps
    while len(page) > room and len(steps) > 2:
        count = max(2, min(len(steps) - 1, len(steps) * room // len(page)))
        steps = np.linspace(0, len(view.steps) - 1, count).round().astype(int)
        page = builder.build(steps, 0)
    n_heads = bisect_right(range(1, n_heads + 1), max_bytes, key=lambda n: len(builder.build(steps, n)))
    return Page(builder.build(steps, n_heads), _contents(view))


def _contents(view: View) -> str:
    """Return what the page shows, for example "4 layers of 4 heads, 14 tokens"."""
    tokens = f"{sum(len(prompt.labels) for prompt in view.prompts)} tokens"
    if not view.prompts:
        return tokens
    n_layer, n_head = view.prompts[0].patterns.shape[1:3]
    return f"{n_layer} layers of {n_head} heads, {tokens}"


def _require_matching_shapes(view: View) -> None:
    """Raise ValueError if the arrays of the view do not match one another."""
    if view.normalize not in NORMALIZE:
        raise ValueError(f"normalize={view.normalize}: give one of {', '.join(NORMALIZE)}")
    for prompt in view.prompts:
        heads, t = (len(view.steps), *prompt.patterns.shape[1:3]), len(prompt.labels)
        expected = {"patterns": (*heads, t * (t + 1) // 2), "value_norms": (*heads, t)}
        arrays = {"patterns": prompt.patterns, "value_norms": prompt.value_norms} | prompt.scores
        for name, array in arrays.items():
            if array.shape != expected.get(name, heads):
                raise ValueError(f"prompt {prompt.name}: {name} is {array.shape}, not {expected.get(name, heads)}")
        if prompt.patterns.dtype != np.uint8:
            raise ValueError(f"prompt {prompt.name}: patterns are {prompt.patterns.dtype}, not uint8; see compand")
        if heads[2] % view.n_kv_head:
            raise ValueError(f"prompt {prompt.name}: {heads[2]} heads cannot share {view.n_kv_head} key/value heads")


class _Builder:
    """Build pages of one view with different numbers of steps and heads. Each array is compressed only once."""

    def __init__(self, view: View, max_bytes: int):
        self.view, self.max_bytes = view, max_bytes
        of_prompts = [[(prompt, head) for head in _stored_heads(prompt)] for prompt in view.prompts]
        self.heads = [pair for turn in zip_longest(*of_prompts) for pair in turn if pair is not None]  # in turns
        self.deflated: dict[bytes, str] = {}  # array -> its text in base64
        self.blobs: dict[str, int] = {}  # text -> its index in the page that is being built

    def add(self, array: np.ndarray) -> int:
        """Return the index of an array among the page's blobs."""
        raw = np.ascontiguousarray(array).tobytes()
        if raw not in self.deflated:
            self.deflated[raw] = base64.b64encode(zlib.compress(raw, 6)).decode()
        return self.blobs.setdefault(self.deflated[raw], len(self.blobs))

    def add_vectors(self, prompt: Prompt, head: Head) -> dict[str, Any]:
        """Add one head's q, k and v [T, D] and the lower triangles of its pattern and of the position's bias, if there
        is one, all float32."""
        layer_map = prompt.maps[head[0]]
        kv_head = head[1] // (layer_map.q.size(1) // layer_map.k.size(1))
        arrays = {"q": layer_map.q[0, head[1]], "k": layer_map.k[0, kv_head], "v": layer_map.v[0, kv_head]}
        triangle = np.tril_indices(len(prompt.labels))
        arrays["pattern"] = layer_map.pattern[0, head[1]][triangle]
        if layer_map.bias is not None:
            arrays["bias"] = layer_map.bias[head[1]][triangle]
        indices = {name: self.add(array.numpy().astype("<f4")) for name, array in arrays.items()}
        return {"layer": int(head[0]), "head": int(head[1]), "width": layer_map.q.size(-1), **indices}

    def add_prompt(self, prompt: Prompt, steps: np.ndarray, n_heads: int) -> dict[str, Any]:
        """Add a prompt's arrays and return its part of the page's data."""
        patterns = prompt.patterns[steps]
        changes = patterns.copy()
        changes[1:] -= patterns[:-1]  # modulo 256, as is their sum in the page
        return {
            "name": prompt.name,
            "labels": prompt.labels,
            "new": prompt.generated_from,
            "note": prompt.note,
            "layers": patterns.shape[1],
            "heads": patterns.shape[2],
            "patterns": self.add(changes),
            "value_norms": self.add(prompt.value_norms[steps].astype("<f4")),
            "scores": {name: [_five_digits(x) for x in scores[steps].flat] for name, scores in prompt.scores.items()},
            "vectors": [self.add_vectors(prompt, head) for owner, head in self.heads[:n_heads] if owner is prompt],
        }

    def build(self, steps: np.ndarray, n_heads: int) -> str:
        """Return the page with these steps (indices) and the q, k and v of the first heads."""
        view, self.blobs = self.view, {}
        stride = max([1, *(-(-len(points) // MAX_LOSSES) for points in view.losses.values())])
        data = {
            "format": 1,
            "title": view.title,
            "steps": [int(view.steps[i]) for i in steps],
            "kv_heads": view.n_kv_head,
            "normalize": view.normalize,
            "losses": {
                name: [[int(step), _five_digits(loss)] for step, loss in points[::stride]]
                for name, points in view.losses.items()
            },
            "start": view.start,
            "stored": {
                "budget": self.max_bytes,
                "steps": [len(steps), len(view.steps)],
                "heads": [n_heads, len(self.heads)],
                "loss_stride": stride,
            },
            "prompts": [self.add_prompt(prompt, steps, n_heads) for prompt in view.prompts],
            "blobs": list(self.blobs),
        }
        text = json.dumps(data, allow_nan=False, default=str, separators=(",", ":"))  # ASCII: U+2028 is escaped
        for char in "<>&":
            text = text.replace(char, f"\\u{ord(char):04x}")
        parts = {"title": _escape(view.title), "summary": _summary(view), "data": text}
        template, parts["style"], parts["script"] = (
            (FOLDER / name).read_text(encoding="utf-8") for name in ("page.html", "page.css", "app.js")
        )
        return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)


def _stored_heads(prompt: Prompt) -> list[Head]:
    """Return the heads whose q, k and v are stored as far as there is room."""
    return prompt.heads if prompt.heads is not None else list(np.ndindex(len(prompt.maps), prompt.patterns.shape[2]))


def _five_digits(x: float) -> float | None:
    """Return a number rounded to five significant digits; None for NaN and infinity, which JSON lacks."""
    return float(f"{x:.5g}") if math.isfinite(x) else None


def _escape(text: str) -> str:
    """Return text as HTML; lone surrogates, which UTF-8 cannot encode, become question marks."""
    return html.escape(text.encode("utf-8", "replace").decode())


def _summary(view: View) -> str:
    """Return every head's scores at the last step as HTML tables, for readers without JavaScript."""
    tables = []
    for prompt in view.prompts:
        names = "".join(f'<th scope="col">{_escape(name)}</th>' for name in prompt.scores)
        rows = []
        for layer, head in np.ndindex(*prompt.patterns.shape[1:3]):
            values = (float(scores[-1, layer, head]) for scores in prompt.scores.values())
            cells = "".join(f"<td>{x:.3g}</td>" if math.isfinite(x) else "<td>–</td>" for x in values)
            rows.append(f'<tr><th scope="row">{layer}.{head}</th>{cells}</tr>')
        caption = f"Input {_escape(prompt.name)}, step {view.steps[-1]}: <q>{_escape(' '.join(prompt.labels))}</q>"
        head_row = f'<tr><th scope="col">layer.head</th>{names}</tr>'
        tables.append(
            f"<table><caption>{caption}</caption><thead>{head_row}</thead><tbody>{''.join(rows)}</tbody></table>"
        )
    return "\n".join(tables)
