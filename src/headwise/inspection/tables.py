"""Print walkthroughs and head scores as tables, in a terminal of any width or a pipe.

print_walkthrough(walkthrough, description, console_of())
print_heads(head_scores(checkpoint, text), console_of())
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import IO, Any

from rich.console import Console, ConsoleRenderable
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from torch import Tensor

from headwise.inspection.walkthrough import Walkthrough

KEYS, LATER = 16, 3  # rows of keys: visible ones, those with the greatest weights; masked ones, the first
MIN_WIDTH = 80  # columns; a narrower terminal wraps lines, so that no number is cut
LABEL = 14  # columns of a token and its position
Cell = str | Text | Tensor  # of a vector [N], as many numbers are shown as fit
Section = tuple[str, str, list[str | Table]]  # title, formula, lines and tables below it
COLUMN_TITLES = {  # metric -> its column in the table of heads
    "entropy": "entropy",
    "mean_distance": "back",
    "mean_distance_without_first": "back1",
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


def format_number(x: float, digits: int = 4) -> str:
    """Return a number with fixed digits, or four significant ones if it is large; zero has no minus."""
    if x == -math.inf:
        return "−∞"
    return f"{round(x, digits) + 0.0:.{digits}f}" if abs(x) < 1000 else f"{x:.4g}"


def format_vector(values: Tensor, shown: int) -> str:
    """Return the first numbers of a vector and its last, `shown` in all."""
    numbers = [f"{format_number(x, 2):>5}" for x in values.tolist()]
    if len(numbers) > shown:
        numbers = [*numbers[: shown - 1], "…", numbers[-1]]
    return f"[{' '.join(numbers)}]"


def format_list(values: Mapping[str, float], form: str) -> str:
    """Return tokens and their numbers as a list on one line."""
    return ", ".join(f"{name} {x:{form}}" for name, x in values.items())


def console_of(file: IO[str] | None = None, width: int | None = None) -> Console:
    """Return a console for tables: as wide as the terminal, or 80 columns in a pipe."""
    console = Console(file=file, width=width, highlight=False)
    console.width = max(console.width, MIN_WIDTH)
    return console


def print_stripped(console: Console, renderable: ConsoleRenderable | str) -> None:
    """Print without spaces at the ends of lines."""
    with console.capture() as captured:
        console.print(renderable)
    console.file.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def make_table(console: Console, columns: list[str], rows: list[list[Cell]], styles: list[str]) -> Table:
    """Return a table whose first column has names and whose others have numbers, as many of each vector as fit the
    console's width."""
    for shown in (8, 6, 5, 4, 3, 2):
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
        for i, name in enumerate(columns):
            table.add_column(name, justify="right" if i else "left", no_wrap=True)
        for row, style in zip(rows, styles, strict=True):
            table.add_row(*(format_vector(x, shown) if isinstance(x, Tensor) else x for x in row), style=style)
        if Measurement.get(console, console.options.update(max_width=1000), table).maximum + 2 <= console.width:
            break
    return table


def print_walkthrough(w: Walkthrough, description: str, console: Console) -> None:
    """Print every step of one head's computation for one query, each below its formula. `description` describes the
    head in words."""
    title = f"Head {w.layer}.{w.head} (layer {w.layer}, head {w.head}), query {w.query} {w.tokens[w.query]}"
    print_stripped(console, Text(title, style="bold"))
    print_stripped(console, Text(f"Over the whole text, this head {description}."))
    for step, formula, parts in (*attention_sections(w, console), *output_sections(w, console)):
        print_stripped(console, "")
        print_stripped(console, Text.assemble((step, "bold"), "   ", (formula, "cyan")))
        for part in parts:
            body = Text(part) if isinstance(part, str) else part
            print_stripped(console, Padding(body, (0, 0, 0, 2), expand=False))
    differences = (
        f"Check: the weights differ from the model's by at most {w.pattern_error:.1e}; the logits of the embedding, "
        f"all heads, feed-forward networks and biases together by at most {w.logits_error:.1e}."
    )
    print_stripped(console, "")
    print_stripped(console, Text(differences, style="dim"))


def attention_sections(w: Walkthrough, console: Console) -> Iterator[Section]:
    """Yield the steps from q, k and v to z."""
    width, visible, query = len(w.q), w.query + 1, f"{w.query} {w.tokens[w.query]}"
    keys = sorted(w.pattern[:visible].argsort(descending=True, stable=True)[:KEYS].tolist())
    later = list(range(visible, len(w.tokens)))
    best = int(w.pattern.argmax())
    names = {}  # a key and its position
    for j in keys + later[:LATER]:
        names[j] = Text(f"{j:>3} {w.tokens[j]}")
        names[j].truncate(LABEL, overflow="ellipsis")

    plus = [f" + b_{x}" if w.b_q.any() else "" for x in "QKV"]
    parts = [
        f"x is a token's residual stream (embedding, position, all updates so far) after the norm; q, k and v have "
        f"{width} numbers each."
    ]
    if w.projected_then:
        parts[0] += f" q and k are then {' and '.join(w.projected_then)}, which gives the numbers below."
        parts.append(f"x W_Q{plus[0]} of {query} = {format_vector(w.projected, 5)}")
    formula = "   ".join(f"{x} = x W_{x.upper()}{bias}" for x, bias in zip("qkv", plus, strict=True))
    yield "1. Query, key and value", formula, [*parts, f"q of {query} = {format_vector(w.q, 5)}"]

    pairs = zip(w.q[:2].tolist(), w.k[best][:2].tolist(), strict=True)
    products = " + ".join(f"{format_number(a, 2)}·{format_number(b, 2)}" for a, b in pairs)
    score, scaled = (format_number(float(x[best])) for x in (w.scores, w.scaled_scores))
    example = f"of key {best} {w.tokens[best]}: {products} + ... = {score}"
    yield "2. Score", "q·k: how well each key matches", [example]
    yield "3. Scale", f"q·k / √{width}: the same variance for any width", [f"{score} / {width**0.5:.4f} = {scaled}"]
    bias = w.position_bias
    masking: list[str | Table] = [f"{len(later)} of {len(w.tokens)} tokens come later"]
    if bias is not None:
        masked = format_number(float(w.masked_scores[best]))
        masking.insert(0, f"plus the position's bias: {scaled} + {format_number(float(bias[best]))} = {masked}")
    yield "4. Mask", "later tokens: −∞", masking

    numbers = (w.scores, w.scaled_scores, w.masked_scores, w.pattern)
    rows: list[list[Cell]] = [
        [name, w.k[j], *(format_number(float(x[j])) for x in numbers)] for j, name in names.items()
    ]
    styles = ["bold" if j == best else "dim" if j > w.query else "" for j in names]
    table = make_table(console, ["key", "k", "q·k", f"÷ √{width}", "masked", "weight"], rows, styles)
    remarks = []
    if visible > len(keys):
        remarks.append(f"The {KEYS} keys with the greatest weights; the other {visible - KEYS} count in every sum.")
    if len(later) > LATER:
        remarks.append(f"And {len(later) - LATER} more later tokens, all masked.")
    if w.normalize == "relu":
        yield "5. ReLU", "weight = max(score, 0) / number of visible keys", [table, *remarks]
    elif w.normalize == "softmax":
        yield "5. Softmax", "weight = exp(score) / Σ exp(score)", [table, *remarks]
    else:
        yield "5. Weights", f"weight = {w.normalize}(scores)", [table, *remarks]

    sums = w.weighted_values.cumsum(0)
    rows = [[names[j], w.v[j], w.weighted_values[j], sums[j]] for j in keys]
    rows.append([Text("  z"), "", "", w.z])
    styles = [*("bold" if j == best else "" for j in keys), "bold"]
    table = make_table(console, ["key", "v", "weight × v", "sum so far"], rows, styles)
    yield "6. Weighted sum", "z = Σ weight × v", [table]


def output_sections(w: Walkthrough, console: Console) -> Iterator[Section]:
    """Yield the steps from z to the prediction."""
    n_head, has_bias = len(w.results), bool(w.bias.any())
    length = format_number(float(w.result.norm()), 3)
    formula = f"ΔE = z W_O, with this head's {len(w.q)} × {len(w.before)} slice of W_O"
    vector = f"ΔE_{w.head} = {format_vector(w.result, 5)}, length {length}"
    yield "7. Output projection", formula, [vector]

    parts = [("E, before", w.before), *((f"ΔE_{h}, head {h}", w.results[h]) for h in range(n_head))]
    parts += [("b_O", w.bias)] * has_bias + [("E', after", w.after)]
    rows: list[list[Cell]] = [[Text(part), x, format_number(float(x.norm()), 3)] for part, x in parts]
    styles = ["bold" if i in (w.head + 1, len(parts) - 1) else "" for i in range(len(parts))]
    terms = [f"ΔE_{h}" for h in range(n_head)] if n_head <= 3 else ["ΔE_0", "...", f"ΔE_{n_head - 1}"]
    formula = f"E' = {' + '.join(['E', *terms, *['b_O'] * has_bias])}"
    yield "8. Sum over heads", formula, [make_table(console, ["", "vector", "length"], rows, styles)]

    lines: list[str | Table] = []
    if w.left_out:
        lines.append(f"The head's own effect is left out: {w.left_out}")
    else:
        lines += [
            "Through the final norm with its statistics here, in logits above their mean over the vocabulary:",
            "raises " + format_list(w.raised(), "+.3f"),
            "lowers " + format_list(w.lowered(), "+.3f"),
        ]
        if w.next_token is not None:
            change = float(w.logit_changes[w.next_token])
            lines.append(f"the actual next token, {w.label(w.next_token)}: {change:+.3f}")
    lines.append("the model predicts " + format_list(w.likeliest(), ".0%"))
    yield "9. Effect on the next token", "norm(ΔE) W_U", lines


def print_heads(rows: list[dict[str, Any]], console: Console) -> None:
    """Print the scores and the description of every head: the rows of snapshot.head_scores."""
    others = [name for name, value in rows[0].items() if isinstance(value, float) and name not in COLUMN_TITLES]
    metrics = [*(name for name in COLUMN_TITLES if name in rows[0]), *others]
    names = [f"{row['layer']}.{row['head']}" for row in rows]
    numbers: list[list[Cell]] = [
        [name, *(format_number(row[metric], 2) for metric in metrics)] for name, row in zip(names, rows, strict=True)
    ]
    columns = ["head", *(COLUMN_TITLES.get(metric, metric) for metric in metrics)]
    descriptions = Table("head", "over the whole text, this head", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for name, row in zip(names, rows, strict=True):
        descriptions.add_row(name, Text(row["description"]))
    for part in (make_table(console, columns, numbers, [""] * len(rows)), "", descriptions):
        print_stripped(console, part)
