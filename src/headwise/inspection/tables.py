"""Walkthroughs and scores of heads as tables in a terminal, of any width, or in a pipe.

show_walk(walk, words, console_of())
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import IO, Any

from rich.console import Console, ConsoleRenderable
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from torch import Tensor

from headwise.inspection.walkthrough import Walk

KEYS, LATER = 16, 3  # rows of keys: the greatest weights of the visible ones, and the first of those masked
NARROWEST = 80  # columns; a narrower terminal wraps lines rather than losing numbers
LABEL = 14  # columns of a token and its place
Row = list[str | Text]
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
    "mean_ablation": "ablat",
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
    text = Text(f"{n:>3} {walk.tokens[n]}")
    text.truncate(LABEL, overflow="ellipsis")
    return text


def table(columns: list[str], rows: list[Row], styles: list[str] | None = None) -> Table:
    """A table whose first column has names and whose others have numbers."""
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for i, name in enumerate(columns):
        made.add_column(name, justify="right" if i else "left", no_wrap=True)
    for row, style in zip(rows, styles or [""] * len(rows), strict=True):
        made.add_row(*row, style=style)
    return made


def fitting(console: Console, columns: list[str], rows: Callable[[int], list[Row]], styles: list[str]) -> Table:
    """The table of rows(n), whose vectors show n numbers, with the most that fit."""
    for shown in (8, 6, 5, 4, 3, 2):
        made = table(columns, rows(shown), styles)
        if Measurement.get(console, console.options.update(max_width=1000), made).maximum + 2 <= console.width:
            break
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


def console_of(file: IO[str] | None = None, width: int | None = None) -> Console:
    """Where tables are printed: as wide as the terminal, or 80 columns in a pipe."""
    console = Console(file=file, width=width, highlight=False)
    console.width = max(console.width, NARROWEST)
    return console


def show_walk(walk: Walk, words: str, console: Console) -> None:
    """Every step of one head for one query, each under its formula."""
    width, channels, heads = len(walk.q), len(walk.before), len(walk.updates)
    keys, remarks = rows_of(walk)
    visible = [j for j in keys if j <= walk.query]
    name, most = named(walk, walk.query), int(walk.weights.argmax())
    relu, bias = walk.normalize == "relu", bool(walk.bias.any())

    def step(title: str, formula: str, *parts: str | Table) -> None:
        say(console, "")
        say(console, Text.assemble((title, "bold"), "   ", (formula, "cyan")))
        for part in parts:
            say(console, Padding(Text(part) if isinstance(part, str) else part, (0, 0, 0, 2), expand=False))

    title = f"Head {walk.layer}.{walk.head} (layer {walk.layer}, head {walk.head}), query {name}"
    say(console, Text(title, style="bold"))
    say(console, Text(f"What it seems to do, over the whole text: {words}"))

    with_bias = " + b_{}" if walk.b_q.any() else ""
    formula = "   ".join(f"{x} = x W_{x.upper()}{with_bias.format(x.upper())}" for x in "qkv")
    then = f" q and k are then {' and '.join(walk.then)}, which gives the numbers below." if walk.then else ""
    step(
        "1. Query, key and value",
        formula,
        f"x is a token's stream (embedding, position, all updates so far), normed; each is {width} numbers.{then}",
        *([f"x W_Q{with_bias.format('Q')} of {name} = {vector(walk.projected, 5)}"] if walk.then else []),
        f"q of {name} = {vector(walk.q, 5)}",
    )
    pairs = zip(walk.q[:2].tolist(), walk.k[most][:2].tolist(), strict=True)
    products = " + ".join(f"{number(a, 2)}·{number(b, 2)}" for a, b in pairs)
    score, scaled = (number(float(x[most])) for x in (walk.scores, walk.scaled))
    later = len(walk.tokens) - walk.query - 1
    step("2. Score", "q·k: how well each key matches", f"of key {named(walk, most)}: {products} + ... = {score}")
    step("3. Scale", f"q·k / √{width}: the same spread for any width", f"{score} / {width**0.5:.4f} = {scaled}")
    step("4. Mask", "later tokens: −∞", f"{later} of {len(walk.tokens)} tokens come later")

    def where(shown: int) -> list[Row]:
        numbers = [[walk.scores[j], walk.scaled[j], walk.masked[j], walk.weights[j]] for j in keys]
        return [
            [token(walk, j), vector(walk.k[j], shown), *(number(float(x)) for x in row)]
            for j, row in zip(keys, numbers, strict=True)
        ]

    styles = ["bold" if j == most else "dim" if j > walk.query else "" for j in keys]
    columns = ["key", "k", "q·k", f"÷ √{width}", "masked", "weight"]
    divided = "weight = max(score, 0) / number of keys seen" if relu else "weight = exp(score) / Σ exp(score)"
    step("5. ReLU" if relu else "5. Softmax", divided, fitting(console, columns, where, styles), *remarks)

    def taken(shown: int) -> list[Row]:
        sums = walk.taken.cumsum(0)
        rows: list[Row] = [
            [token(walk, j), *(vector(x, shown) for x in (walk.v[j], walk.taken[j], sums[j]))] for j in visible
        ]
        return [*rows, [Text("  z"), "", "", vector(walk.z, shown)]]

    styles = [*("bold" if j == most else "" for j in visible), "bold"]
    step("6. Mix", "z = Σ weight × v", fitting(console, ["key", "v", "weight × v", "sum so far"], taken, styles))
    length = number(float(walk.update.norm()), 3)
    step(
        "7. Back to the stream",
        f"ΔE = z W_O, with this head's {width} × {channels} slice of W_O",
        f"ΔE_{walk.head} = {vector(walk.update, 5)}, length {length}",
    )

    def sums(shown: int) -> list[Row]:
        parts = [("E, before", walk.before), *((f"ΔE_{h}, head {h}", walk.updates[h]) for h in range(heads))]
        parts += [("b_O", walk.bias)] * bias + [("E', after", walk.after)]
        return [[Text(part), vector(x, shown), number(float(x.norm()), 3)] for part, x in parts]

    every = [f"ΔE_{h}" for h in range(heads)] if heads <= 3 else ["ΔE_0", "...", f"ΔE_{heads - 1}"]
    formula = " + ".join(["E", *every, *["b_O"] * bias])
    styles = ["", *("bold" if h == walk.head else "" for h in range(heads)), *[""] * bias, "bold"]
    step("8. Sum over heads", f"E' = {formula}", fitting(console, ["", "vector", "length"], sums, styles))
    came = [] if walk.came is None else [f"the token that came, {walk.label(walk.came)}: {walk.gains[walk.came]:+.3f}"]
    step(
        "9. What that does to the next token",
        "norm(ΔE) W_U",
        "Through the final norm as it is here, in logits above their mean over the vocabulary:",
        "raises " + listed(walk.raised(), "+.3f"),
        "lowers " + listed(walk.lowered(), "+.3f"),
        *came,
        "the model itself expects " + listed(walk.predictions(), ".0%"),
    )
    checked = (
        f"Checked: these weights differ from the model's by at most {walk.weights_off:.1e}; all heads, feed-forward "
        f"networks, biases and the embedding together from its logits by at most {walk.logits_off:.1e}."
    )
    say(console, "")
    say(console, Text(checked, style="dim"))


def say(console: Console, shown: ConsoleRenderable | str) -> None:
    """Print without blanks at the ends of lines."""
    with console.capture() as got:
        console.print(shown)
    console.file.write("".join(f"{line.rstrip()}\n" for line in got.get().splitlines()))


def named(walk: Walk, n: int) -> str:
    """A token and its place, in a sentence."""
    return f"{n} {walk.tokens[n]}"


def listed(values: Mapping[str, float], form: str) -> str:
    """Tokens and their numbers in a line."""
    return ", ".join(f"{name} {x:{form}}" for name, x in values.items())


def show_heads(rows: list[dict[str, Any]], console: Console) -> None:
    """The scores of every head, and what it seems to do; the rows are those of look.heads_of."""
    metrics = [metric for metric in SHORT if metric in rows[0]]
    heads = [f"{row['layer']}.{row['head']}" for row in rows]
    numbers: list[Row] = [[h, *(number(row[m], 2) for m in metrics)] for h, row in zip(heads, rows, strict=True)]
    said = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    said.add_column("head", no_wrap=True)
    said.add_column("what it seems to do, over the whole text")
    for head, row in zip(heads, rows, strict=True):
        said.add_row(head, Text(row["words"]))
    for shown in (table(["head", *(SHORT[m] for m in metrics)], numbers), "", said):
        say(console, shown)
