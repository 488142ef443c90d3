"""The result of a grid or sweep: sweep.csv, a table in the terminal, and sweep.html.

report(folder, rows_of(folder))
"""

from __future__ import annotations

import csv
import math
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from headwise.console import fail, say
from headwise.files import leave_no_empty, whole
from headwise.inspection.tables import console_of
from headwise.sweep.multirun import ENDED, leave_no_bare_multirun
from headwise.sweep.page import write_page
from headwise.sweep.rows import Row, best_first, best_of, brief, metrics_in, read_json, rows_of, short_names, varied_in

SHOWN = 40  # rows of the table in the terminal
INSTALL = "pip install -e '.[sweep]'"


def write_csv(path: Path, rows: list[Row], varied: list[str]) -> None:
    """Write one line per run, in the order of their numbers. A cell that does not apply is empty."""
    metrics = metrics_in(rows)
    columns = ["run", *varied, "val_loss", "state", "steps", "seconds"]
    columns += [name for metric in metrics for name in (metric, f"{metric}_heads")]
    with whole(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*columns, "folder", "why"])
        for row in rows:
            cells: list = [row.number, *(row.values.get(key) for key in varied), row.val_loss, row.state]
            cells += [row.steps, row.seconds]
            cells += [cell for metric in metrics for cell in (row.top_scores.get(metric), row.head_counts.get(metric))]
            cells += [row.folder, row.why]
            writer.writerow(["" if isinstance(cell, float) and not math.isfinite(cell) else cell for cell in cells])


def table_of(rows: list[Row], varied: list[str]) -> Table:
    """Return the best runs as a table for the terminal, the best first."""
    names, with_heads = short_names(varied), any(row.n_heads for row in rows)
    table = Table(header_style="bold", box=None, pad_edge=False)
    columns = ["run", *(names[key] for key in varied), "val loss", "steps"]
    for name in columns + ["induction heads"] * with_heads:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for row in best_first(rows)[:SHOWN]:
        loss = f"{row.val_loss:.4f}" if math.isfinite(row.val_loss) else "–"
        cells = [str(row.number), *(brief(row.values.get(key, "–")) for key in varied), loss, str(row.steps)]
        if with_heads:
            count = row.head_counts.get("induction")
            cells.append("–" if count is None else f"{count} of {row.n_heads}")
        table.add_row(*map(Text, [*cells, row.state]), style=None if row.state == "complete" else "dim")
    return table


def report(folder: Path, rows: list[Row], varied: list[str] | None = None, console: Console | None = None) -> None:
    """Write sweep.csv and sweep.html, and print the table. `varied` are by default the keys in which runs differ."""
    varied = varied_in(rows) if varied is None else varied
    write_csv(folder / "sweep.csv", rows, varied)
    console, table, best = console or console_of(), table_of(rows, varied), best_of(rows)
    console.width = max(console.width, Measurement.get(console, console.options.update(width=1000), table).maximum)
    console.print(table)  # in a narrower terminal its lines wrap, and no number is lost
    if len(rows) > SHOWN:
        print(f"and {len(rows) - SHOWN} more in sweep.csv")
    if best:
        print(f"best             run {best.number}, validation loss {best.val_loss:.4f} nats per token: {best.folder}")
    print(f"table            {folder / 'sweep.csv'}")
    if find_spec("optuna") and find_spec("plotly"):
        print(f"page             {write_page(folder, rows, varied)}")
    else:
        say(f"sweep.html was not written: it needs optuna and plotly: {INSTALL}")


def report_grid(folder: Path) -> None:
    """Report a finished multirun. Exit with 1 if runs failed; with 2, and no files left, if all had wrong input."""
    rows = rows_of(folder)
    if not rows:  # with estimate=true no run writes any files
        return
    failed = [row for row in rows if row.state == "failed"]
    message = f"{len(failed)} of {len(rows)} runs failed; run {failed[0].number}: {failed[0].why}" if failed else ""
    if len(failed) == len(rows) and all(read_json(folder / str(row.number) / ENDED).get("code") == 2 for row in rows):
        for row in rows:
            (folder / str(row.number) / ENDED).unlink()
            leave_no_empty(folder / str(row.number))
        leave_no_bare_multirun(folder)
        fail(message)
    report(folder, rows)
    if failed:
        fail(message, 1)
