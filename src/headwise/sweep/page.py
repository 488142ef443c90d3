"""One self-contained page that compares the runs of a sweep: pictures, table, and links to each run's attention.

write_page(folder, rows, varied)    # -> folder/sweep.html, and the pictures as files beside it
"""

from __future__ import annotations

import base64
import html
import math
import os
import re
from pathlib import Path
from urllib.parse import quote

from headwise.files import whole, write_text
from headwise.inspection.head_scores import FORMED
from headwise.sweep.pictures import draw
from headwise.sweep.report import Row, by_loss, digits, names_of

TEMPLATE = Path(__file__).with_name("page.html")
ABOUT = {  # picture -> its title and what is to be seen
    "loss_by_parameter": (
        "Loss against each parameter",
        "Filled: complete runs; hollow: ended early; a triangle at the top: beyond the scale; a bar: the mean.",
    ),
    "parallel_coordinates": (
        "All parameters at once",
        "A line for each run through its values to its loss. The better, the stronger its colour; thin: ended early.",
    ),
    "learning_curves": (
        "Learning curves",
        "The better, the stronger the colour. Thin lines that end in a dot: ended early.",
    ),
    "heads": (
        "What the heads became",
        "How many heads of each kind a run has at its last look; the colour is the best head's score.",
    ),
}


def write_page(folder: Path, rows: list[Row], varied: list[str]) -> Path:
    """Draw the pictures and write the page. Its path."""
    light, dark = (draw(rows, varied, theme) for theme in ("light", "dark"))
    for name, picture in light.items():
        with whole(folder / f"sweep_{name}.png") as temporary:
            temporary.write_bytes(picture)
    pictures = "\n".join(figure(name, light[name], dark[name]) for name in light)
    counts = {state: sum(row.state == state for row in rows) for state in dict.fromkeys(row.state for row in rows)}
    best = next((row for row in by_loss(rows) if row.state == "complete"), None)
    told = ", ".join(f"{count} {state}" for state, count in counts.items())
    if best:
        told += f". Best: run {best.number}, validation loss {best.val_loss:.4f} nats per token"
    parts = {
        "title": text(str(folder)),
        "summary": text(told + "."),
        "pictures": pictures,
        "table": table(folder, rows, varied),
    }
    filled = re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], TEMPLATE.read_text(encoding="utf-8"))
    write_text(folder / "sweep.html", filled)
    return folder / "sweep.html"


def text(value: str) -> str:
    """Text for markup; half characters, which no file can hold, become question marks."""
    return html.escape(value.encode("utf-8", "replace").decode())


def figure(name: str, light: bytes, dark: bytes) -> str:
    """A picture in both colours, with its title."""
    title, about = ABOUT[name]
    day, night = (f"data:image/png;base64,{base64.b64encode(picture).decode()}" for picture in (light, dark))
    picture = f'<source media="(prefers-color-scheme: dark)" srcset="{night}"><img src="{day}" alt="{title}">'
    return f"<section><h2>{title}</h2><p>{about}</p><picture>{picture}</picture></section>"


def table(folder: Path, rows: list[Row], varied: list[str]) -> str:
    """The runs, the best first, each with the way to its attention."""
    names = names_of(varied)
    measured = [metric for metric in FORMED if any(metric in row.formed for row in rows)]
    columns = ["run", *(names[key] for key in varied), "val loss", "steps", "state"]
    columns += [f"{metric.replace('_', ' ')} heads" for metric in measured] + ["attention"]
    head = "".join(f'<th scope="col">{text(column)}</th>' for column in columns)
    body = []
    for row in by_loss(rows):
        loss = f"{row.val_loss:.4f}" if math.isfinite(row.val_loss) else "–"
        cells = [*(digits(row.values.get(key, "–")) for key in varied), loss, str(row.steps)]
        state = text(row.state) + (f'<small class="why">{text(row.why)}</small>' if row.why else "")
        counts = [
            f"{row.formed[metric]} <small>({row.best[metric]:.2f})</small>" if metric in row.formed else "–"
            for metric in measured
        ]
        page = row.page
        link = f'<a href="{text(quote(os.path.relpath(page, folder)))}">open</a>' if page else "–"
        filled = [*map(text, cells), state, *counts, link]
        data = "".join(f"<td>{cell}</td>" for cell in filled)
        body.append(f'<tr class="{row.state}"><th scope="row">{row.number}</th>{data}</tr>')
    rows_of_table = "\n".join(body)
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n{rows_of_table}\n</tbody></table>"
