"""Walkthroughs and scores of heads as tables in a terminal, of any width, or in a pipe.

show_walk(walk, words, Console())
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from torch import Tensor

from headwise.inspection.walkthrough import Walk

KEYS, LATER = 16, 3  # rows of keys: the greatest weights of the visible ones, and the first of those masked
SHORT = {  # metrics as the heads' table calls them
    "entropy": "entropy",
    "mean_distance": "back",
    "previous_token": "prev",
    "own_token": "own",
    "first_token": "first",
    "duplicate_token": "dupl",
    "induction": "induct",
    "ov_copying": "copies",
    "importance": "import",
    "ablation": "ablat",
    "logit_attribution": "logit",
}


def number(x: float, digits: int = 4) -> str:
    """A number in a column: fixed digits, or four significant ones where it is large; no minus before a zero."""
    if x == -math.inf:
        return "−∞"
    return f"{round(x, digits) + 0.0:.{digits}f}" if abs(x) < 1000 else f"{x:.4g}"


def vector(values: Tensor, shown: int) -> str:
    """The first numbers of a vector and its last."""
    numbers = [f"{number(x, 2):>5}" for x in values.tolist()]
    if len(numbers) > shown:
        numbers = [*numbers[: shown - 1], "…", numbers[-1]]
    return f"[{' '.join(numbers)}]"


def token(walk: Walk, n: int) -> Text:
    """A token and its place."""
    return Text(f"{n:>3} {walk.tokens[n]}", overflow="ellipsis", no_wrap=True)


def table(*columns: str, token_width: int = 14) -> Table:
    """An empty table whose first column has names and whose others have numbers."""
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    made.add_column(columns[0], no_wrap=True, max_width=token_width)
    for name in columns[1:]:
        made.add_column(name, justify="right", no_wrap=True)
    return made


def rows_of(walk: Walk) -> tuple[list[int], list[str]]:
    """The keys that are listed, in order, and remarks on those that are not."""
    visible = walk.weights[: walk.query + 1]
    kept = sorted(visible.argsort(descending=True, stable=True)[:KEYS].tolist())
    later = list(range(walk.query + 1, len(walk.tokens)))
    remarks = []
    if len(visible) > len(kept):
        remarks.append(f"The {KEYS} keys of the greatest weights; the other {len(visible) - KEYS} count in every sum.")
    if len(later) > LATER:
        remarks.append(f"And {len(later) - LATER} more later tokens, all masked.")
    return kept + later[:LATER], remarks


def show_walk(walk: Walk, words: str, console: Console) -> None:
    """Every step of one head for one query, each under its formula."""
    width, channels, heads = len(walk.q), len(walk.before), len(walk.updates)
    shown = 3 if console.width < 100 else 4 if console.width < 140 else 6
    keys, remarks = rows_of(walk)
    name = f"{walk.query} {walk.tokens[walk.query]}"

    def step(title: str, formula: str, *parts: str | Table) -> None:
        console.print()
        console.print(Text.assemble((title, "bold"), "   ", (formula, "cyan")))
        for part in parts:
            console.print(Padding(Text(part) if isinstance(part, str) else part, (0, 0, 0, 2), expand=False))

    console.print(
        Text(f"Head {walk.layer}.{walk.head} (layer {walk.layer}, head {walk.head}), query {name}", style="bold")
    )
    console.print(Text(f"What it seems to do: {words}"))

    step(
        "1. Query, key and value",
        "q = x W_Q   k = x W_K   v = x W_V",
        f"Projections of each token's stream x (embedding, position, all updates so far; normed) to {width} numbers.",
        f"q of {name} = {vector(walk.q, shown + 2)}",
    )
    activation = "ReLU" if walk.normalize == "relu" else "softmax"
    divided = "max(score, 0) / keys seen" if walk.normalize == "relu" else "exp(score) / their sum"
    where = table("key", "k", "q·k", f"÷ √{width}", "masked", activation)
    for j in keys:
        style = "bold" if j == walk.query else "dim" if j > walk.query else ""
        numbers = [walk.scores[j], walk.scaled[j], walk.masked[j], walk.weights[j]]
        where.add_row(token(walk, j), vector(walk.k[j], shown), *(number(float(x)) for x in numbers), style=style)
    step("2. Score", "q·k, one for each key: how well they match")
    step("3. Scale", f"q·k / √{width}, so that their spread does not depend on the width")
    step(
        "4. Mask",
        "later tokens: −∞",
    )
    step(f"5. {activation}", f"weight = {divided}", where, *remarks)
    taken = table("key", "v", "weight × v", "sum so far")
    sums = walk.taken.cumsum(0)
    for j in [j for j in keys if j <= walk.query]:
        taken.add_row(token(walk, j), *(vector(x, shown) for x in (walk.v[j], walk.taken[j], sums[j])))
    taken.add_row(Text("z", style="bold"), "", "", vector(walk.z, shown))
    step("6. Mix", "z = Σ weight × v", taken)
    step(
        "7. Back to the stream",
        f"ΔE = z W_O, this head's {width} × {channels} slice of W_O",
        f"ΔE_{walk.head} = {vector(walk.update, shown + 2)}, length {number(float(walk.update.norm()), 3)}",
    )
    added = table("", "vector", "length")
    added.add_row(Text("E, before"), vector(walk.before, shown), number(float(walk.before.norm()), 3))
    for h in range(heads):
        row = walk.updates[h]
        style = "bold" if h == walk.head else ""
        added.add_row(Text(f"ΔE_{h}, head {h}"), vector(row, shown), number(float(row.norm()), 3), style=style)
    if walk.bias.any():
        added.add_row(Text("b_O"), vector(walk.bias, shown), number(float(walk.bias.norm()), 3))
    added.add_row(Text("E', after"), vector(walk.after, shown), number(float(walk.after.norm()), 3), style="bold")
    every = [f"ΔE_{h}" for h in range(heads)] if heads <= 3 else ["ΔE_0", "...", f"ΔE_{heads - 1}"]
    formula = " + ".join(["E", *every, *(["b_O"] if walk.bias.any() else [])])
    step("8. Sum over heads", f"E' = {formula}", added)
    step(
        "9. What that does to the next token",
        "ΔE through the final norm and W_U, above its mean",
        "raises " + listed(walk.raised(), "+.3f"),
        "lowers " + listed(walk.lowered(), "+.3f"),
        *(
            [f"the token that came, {walk.label(walk.came)}: {walk.gains[walk.came]:+.3f}"]
            if walk.came is not None
            else []
        ),
        "the model itself expects " + listed(walk.predictions(), ".0%"),
    )
    console.print()
    console.print(
        f"Checked: these weights differ from the model's by at most {walk.weights_off:.1e}; all heads, feed-forward "
        f"networks, biases and the embedding together from its logits by at most {walk.logits_off:.1e}.",
        style="dim",
    )


def listed(values: Mapping[str, float], form: str) -> str:
    """Tokens and their numbers in a line."""
    return ", ".join(f"{name} {x:{form}}" for name, x in values.items())


def show_heads(rows: list[dict[str, Any]], console: Console) -> None:
    """The scores of every head, and what it seems to do; the rows are those of look.rows_of_heads."""
    names = [name for name in SHORT if name in rows[0]]
    numbers = table("head", *(SHORT[name] for name in names))
    said = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    said.add_column("head", no_wrap=True)
    said.add_column("what it seems to do")
    for row in rows:
        name = f"{row['layer']}.{row['head']}"
        numbers.add_row(name, *(number(row[metric], 2) for metric in names))
        said.add_row(name, Text(row["words"]))
    console.print(numbers)
    console.print()
    console.print(said)
