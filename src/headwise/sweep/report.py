"""What a sweep came to: a row for each run, as sweep.csv, as a table in the terminal and as a page with pictures.

report(folder, rows_of(folder))    # of a multirun or of a search: what counts is in the runs' folders
"""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from headwise.console import fail, say
from headwise.errors import UserError
from headwise.files import CsvTable, leave_no_empty, whole
from headwise.inspection.head_scores import FORMED, OF_REPEATS
from headwise.inspection.tables import console_of
from headwise.sweep.multirun import ENDED, leave_no_bare_multirun
from headwise.training.metrics import losses

SHOWN = 40  # rows of the table in the terminal
BRIEF = 18  # characters of a value there and in pictures
OWN = ("run_dir", "resume")  # overrides that say where a run is, not what it is


@dataclass
class Row:
    """One run of a sweep."""

    number: int
    folder: Path | None  # None: on another machine
    overrides: list[str]
    state: str  # complete, pruned, failed, running, unfinished
    val_loss: float = math.nan  # the best, nats per token
    steps: int = 0
    seconds: float = math.nan
    best: dict[str, float] = field(default_factory=dict)  # metric -> the greatest score of a head at the last look
    formed: dict[str, int] = field(default_factory=dict)  # metric -> heads above its threshold
    heads: int = 0
    curve: list[tuple[int, float]] = field(default_factory=list)  # (step, validation loss)
    why: str = ""

    @property
    def values(self) -> dict[str, str]:
        """What was asked for, key by key."""
        pairs = (override.lstrip("+~").partition("=") for override in self.overrides)
        return {key: value.strip("'\"") for key, _, value in pairs if key not in OWN}

    @property
    def page(self) -> Path | None:
        """The page of its attention, if it has one."""
        page = self.folder / "attention" / "view.html" if self.folder else None
        return page if page and page.is_file() else None


def rows_of(folder: Path) -> list[Row]:
    """The runs in a sweep's folders 0, 1, 2, ..., in this order."""
    numbered = sorted((int(path.name), path) for path in folder.iterdir() if path.name.isdecimal() and path.is_dir())
    found = (row_of(number, path) for number, path in numbered)
    return [row for row in found if row]


def row_of(number: int, folder: Path) -> Row | None:
    """What one run came to, so far; None for a folder in which none has begun."""
    ended, asked = read_json(folder / ENDED), folder / "overrides.yaml"
    summary = read_json(folder / "summary.json")
    if not ended and not asked.exists():
        return None
    given = ended["overrides"] if ended else yaml.safe_load(asked.read_text(encoding="utf-8")) or []
    row = Row(number, folder, list(map(str, given)), "unfinished")
    try:
        row.curve = [(step, loss) for step, loss in losses(folder / "metrics.csv")["val"] if math.isfinite(loss)]
        read_heads(row, folder / "attention" / "heads.csv")
    except UserError as error:  # a damaged table is no reason to lose the others
        row.why = str(error)
    row.val_loss = min((loss for _, loss in row.curve), default=math.nan)
    row.steps = row.curve[-1][0] if row.curve else 0
    if ended:
        row.state, row.why = ended["state"], ended["why"]
    elif summary:
        row.state, row.val_loss, row.steps = "complete", summary["val_loss"], summary["steps"]
        row.seconds = summary["train_seconds"]
    if row.state != "complete":
        row.seconds = seconds_of(folder / "metrics.csv")
    if row.state == "failed":
        row.val_loss = math.nan
    return row


def read_json(path: Path) -> dict:
    """A JSON file's contents, or nothing where there is none, or a damaged one."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}
    except (ValueError, TypeError):
        say(f"{path} is damaged, and left out")
        return {}


def seconds_of(path: Path) -> float:
    """How long a run has trained, as its metrics.csv tells."""
    try:
        told = [row["seconds"] for row in CsvTable(path, []).rows() if row.get("seconds")]
    except UserError:  # which has been said
        told = []
    return float(told[-1]) if told else math.nan


def read_heads(row: Row, path: Path) -> None:
    """How many heads of each kind there are at the last look, and the best score of each, on the input that tells."""
    rows = CsvTable(path, []).rows()
    last = [one for one in rows if one["step"] == rows[-1]["step"]]
    row.heads = len({(one["layer"], one["head"]) for one in last})
    for metric, threshold in FORMED.items():
        name = "repeats" if metric in OF_REPEATS else "val"
        scores = [float(one[metric]) for one in last if one["input"] == name and one.get(metric)]
        if scores:
            row.best[metric], row.formed[metric] = max(scores), sum(score > threshold for score in scores)


def varied_in(rows: list[Row]) -> list[str]:
    """The keys in which runs differ; of a single run all that was asked for."""
    keys = list(dict.fromkeys(key for row in rows for key in row.values))
    return [key for key in keys if len({row.values.get(key) for row in rows}) > 1] or (keys if len(rows) == 1 else [])


def short(override: str) -> str:
    """An override as a name: the last part of its key, and four digits of a number."""
    key, _, value = override.partition("=")
    return f"{key.split('.')[-1]}={digits(value)}"


def digits(value: str) -> str:
    """Four significant digits of a number with more of them; anything else as it is."""
    value = value.strip("'\"")
    try:
        return f"{float(value):.4g}" if len(value) > 6 else value
    except ValueError:
        return value


def brief(value: str) -> str:
    """A value in little room: four digits of a number, the end of a long text."""
    value = digits(value)
    return value if len(value) <= BRIEF else "…" + value[1 - BRIEF :]


def names_of(keys: list[str]) -> dict[str, str]:
    """Keys as column heads: their last parts, where these differ."""
    ends = [key.split(".")[-1] for key in keys]
    return {key: end if ends.count(end) == 1 else key for key, end in zip(keys, ends, strict=True)}


def by_loss(rows: list[Row]) -> list[Row]:
    """The best first: complete ones, then those that were ended early, then those without a loss."""
    order = ("complete", "running", "unfinished", "pruned", "failed")
    return sorted(
        rows, key=lambda row: (order.index(row.state), row.val_loss if math.isfinite(row.val_loss) else math.inf)
    )


def write_csv(path: Path, rows: list[Row], varied: list[str]) -> None:
    """sweep.csv: a row for each run, in the order of their numbers. A cell that does not apply is empty."""
    measured = [metric for metric in FORMED if any(metric in row.best for row in rows)]
    columns = ["run", *varied, "val_loss", "state", "steps", "seconds"]
    columns += [name for metric in measured for name in (metric, f"{metric}_heads")]
    with whole(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*columns, "folder", "why"])
        for row in rows:
            cells: list = [row.number, *(row.values.get(key, "") for key in varied), number(row.val_loss), row.state]
            cells += [row.steps, number(row.seconds)]
            cells += [cell for metric in measured for cell in (row.best.get(metric, ""), row.formed.get(metric, ""))]
            writer.writerow([*cells, row.folder or "", row.why])


def number(x: float) -> float | str:
    """A number as a cell, empty where it is none."""
    return x if math.isfinite(x) else ""


def table_of(rows: list[Row], varied: list[str]) -> Table:
    """The runs, the best first."""
    names = names_of(varied)
    table = Table(header_style="bold", box=None, pad_edge=False)
    table.add_column("run", justify="right")
    for key in varied:
        table.add_column(names[key], justify="right", no_wrap=True)
    for name in ("val loss", "steps"):
        table.add_column(name, justify="right", no_wrap=True)
    looked = any(row.heads for row in rows)
    if looked:
        table.add_column("induction heads", justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for row in by_loss(rows)[:SHOWN]:
        loss = f"{row.val_loss:.4f}" if math.isfinite(row.val_loss) else "–"
        cells = [str(row.number), *(brief(row.values.get(key, "–")) for key in varied), loss, str(row.steps)]
        if looked:
            cells.append(f"{row.formed['induction']} of {row.heads}" if "induction" in row.formed else "–")
        table.add_row(*(Text(cell) for cell in [*cells, row.state]), style=None if row.state == "complete" else "dim")
    return table


def report(
    folder: Path, rows: list[Row], varied: list[str] | None = None, whole: bool = True, console: Console | None = None
) -> None:
    """Write sweep.csv; of the `whole` sweep also the pictures and the page, and print the table."""
    varied = varied_in(rows) if varied is None else varied
    write_csv(folder / "sweep.csv", rows, varied)
    if not whole:
        return
    from headwise.sweep.page import write_page

    say("drawing the comparison")
    page = write_page(folder, rows, varied)
    console, table = console or console_of(), table_of(rows, varied)
    console.width = max(console.width, Measurement.get(console, console.options.update(width=1000), table).maximum)
    console.print(table)  # in a narrower terminal its lines wrap, and no number is lost
    if len(rows) > SHOWN:
        print(f"and {len(rows) - SHOWN} more in sweep.csv")
    best = next((row for row in by_loss(rows) if row.state == "complete"), None)
    if best:
        print(f"best             run {best.number}, validation loss {best.val_loss:.4f} nats per token: {best.folder}")
    print(f"table            {folder / 'sweep.csv'}\npage             {page}")


def end_of_multirun(folder: Path) -> None:
    """Tell of a multirun that has ended. Exits with 1 where runs failed, with 2 where all did by their input."""
    rows = rows_of(folder)
    if not rows:  # estimates, say
        return
    failed = [row for row in rows if row.state == "failed"]
    said = f"{len(failed)} of {len(rows)} runs failed; run {failed[0].number}: {failed[0].why}" if failed else ""
    if len(failed) == len(rows) and all(read_json(folder / str(row.number) / ENDED).get("code") == 2 for row in rows):
        for row in rows:
            (folder / str(row.number) / ENDED).unlink()
            leave_no_empty(folder / str(row.number))
        leave_no_bare_multirun(folder)
        fail(said)
    report(folder, rows)
    if failed:
        fail(said, 1)
