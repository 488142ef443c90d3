"""Read the runs of a grid or sweep from their folders 0, 1, 2, ...

rows = runs_in(folder)    # one Row for each run, whatever state it is in
varied = varied_in(rows)    # the keys in which the runs differ
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from headwise.console import say
from headwise.files import CsvTable
from headwise.inspection.head_scores import REPEATS_METRICS, THRESHOLDS
from headwise.sweep.multirun import ENDED

STATES = ("complete", "running", "unfinished", "pruned", "failed")  # in the order of the tables
BRIEF = 18  # characters of a value in a table or plot
LOCATION = ("run_dir", "resume")  # overrides that say where a run is, not what it is


@dataclass
class Row:
    """One run of a grid or sweep."""

    number: int
    folder: Path | None  # None: trained on another machine
    overrides: list[str]
    state: str  # one of STATES
    val_loss: float = math.nan  # the best, in nats per token
    steps: int = 0
    seconds: float = math.nan  # of training
    top_scores: dict[str, float] = field(default_factory=dict)  # metric -> highest score of a head, last recorded step
    head_counts: dict[str, int] = field(default_factory=dict)  # metric -> heads above its threshold
    n_heads: int = 0
    val_losses: list[tuple[int, float]] = field(default_factory=list)  # (step, nats per token)
    why: str = ""  # it was pruned or failed
    code: int | None = None  # exit code of a run that failed, None for a bug

    @property
    def values(self) -> dict[str, str]:
        """Return the overrides as key -> value."""
        return {key: value for key, value in map(split_override, self.overrides) if key not in LOCATION}

    def text_of(self, key: str) -> str:
        """Return a key's value for a table: at most four digits of a number, or a dash if the run does not set it."""
        return four_digits(self.values.get(key, "–"))

    @property
    def loss_text(self) -> str:
        """Return the validation loss with four decimals, or a dash."""
        return f"{self.val_loss:.4f}" if math.isfinite(self.val_loss) else "–"

    @property
    def attention_page(self) -> Path | None:
        """Return the page of the run's attention, or None if there is none."""
        page = self.folder / "attention" / "view.html" if self.folder else None
        return page if page and page.is_file() else None


def runs_in(folder: Path) -> list[Row]:
    """Return the runs in a grid's or sweep's folder, in the order of their numbers."""
    numbered = sorted((int(path.name), path) for path in folder.iterdir() if path.name.isdecimal() and path.is_dir())
    return [row for number, path in numbered if (row := read_run(number, path))]


def read_run(number: int, folder: Path) -> Row | None:
    """Return the run in a folder, or None if there is none. If one of its tables is damaged, `why` says so."""
    ended, given = read_json(folder / ENDED), folder / "overrides.yaml"
    if not ended and not given.exists():
        return None
    overrides = ended["overrides"] if ended else yaml.safe_load(given.read_text(encoding="utf-8")) or []
    row = Row(number, folder, list(map(str, overrides)), "unfinished")
    try:
        read_metrics(row, folder / "metrics.csv")
        read_heads(row, folder / "attention" / "heads.csv")
    except ValueError as error:
        row.why = str(error)
    summary = read_json(folder / "summary.json")
    if ended:
        row.state, row.why, row.code = ended["state"], ended["why"], ended["code"]
    elif summary:
        row.state, row.seconds = "complete", summary["train_seconds"]
        row.val_loss, row.steps = summary["val_loss"], summary["steps"]
    if row.state == "failed":
        row.val_loss = math.nan
    return row


def read_json(path: Path) -> dict:
    """Return the object in a JSON file; an empty one if the file is missing or damaged."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}
    except (ValueError, TypeError):
        say(f"{path} is damaged and was ignored")
        return {}


def read_metrics(row: Row, path: Path) -> None:
    """Set a row's losses, steps and seconds from its metrics.csv. Raise ValueError if the file is damaged."""
    table = CsvTable(path, []).rows()
    losses = [(int(line["step"]), float(line["val_loss"])) for line in table if line.get("val_loss")]
    row.val_losses = [(step, loss) for step, loss in losses if math.isfinite(loss)]
    row.val_loss = min((loss for _, loss in row.val_losses), default=math.nan)
    row.steps = row.val_losses[-1][0] if row.val_losses else 0
    row.seconds = float(next((line["seconds"] for line in reversed(table) if line.get("seconds")), math.nan))


def read_heads(row: Row, path: Path) -> None:
    """Set a row's head counts and highest scores at the last recorded step. A metric of repeats is taken on the
    `repeats` input, any other on validation text. Raise ValueError if the file is damaged."""
    table = CsvTable(path, []).rows()
    last = [line for line in table if line["step"] == table[-1]["step"]]
    row.n_heads = len({(line["layer"], line["head"]) for line in last})
    for metric, threshold in THRESHOLDS.items():
        name = "repeats" if metric in REPEATS_METRICS else "val"
        scores = [float(line[metric]) for line in last if line["input"] == name and line.get(metric)]
        if scores:
            row.top_scores[metric], row.head_counts[metric] = max(scores), sum(score > threshold for score in scores)


def varied_in(rows: list[Row]) -> list[str]:
    """Return the keys in which runs differ; for a single run, all of its overrides' keys."""
    keys = list(dict.fromkeys(key for row in rows for key in row.values))
    return keys if len(rows) == 1 else [key for key in keys if len({row.values.get(key) for row in rows}) > 1]


def best_first(rows: list[Row]) -> list[Row]:
    """Return the rows by state, complete ones first, then by validation loss, those without one last."""
    return sorted(
        rows, key=lambda row: (STATES.index(row.state), row.val_loss if math.isfinite(row.val_loss) else math.inf)
    )


def best_of(rows: list[Row]) -> Row | None:
    """Return the complete run of the lowest validation loss."""
    return next((row for row in best_first(rows) if row.state == "complete"), None)


def summary_of(rows: list[Row]) -> str:
    """Return in one line how many runs are in each state, and the best."""
    counts, best = {state: sum(row.state == state for row in rows) for state in STATES}, best_of(rows)
    summary = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    return f"{summary}. Best: run {best.number}, validation loss {best.loss_text} nats per token" if best else summary


def metrics_in(rows: list[Row]) -> list[str]:
    """Return the head metrics that any run has."""
    return [metric for metric in THRESHOLDS if any(metric in row.head_counts for row in rows)]


def split_override(override: str) -> tuple[str, str]:
    """Return an override's key without + or ~, and its value without quotes."""
    key, _, value = override.lstrip("+~").partition("=")
    return key, value.strip("'\"")


def short(override: str) -> str:
    """Return an override with the last part of its key and four digits of a number."""
    key, value = split_override(override)
    return f"{key.split('.')[-1]}={four_digits(value)}"


def short_names(keys: list[str]) -> dict[str, str]:
    """Return each key's last part as its name, or the whole key where two last parts are the same."""
    ends = [key.split(".")[-1] for key in keys]
    return {key: end if ends.count(end) == 1 else key for key, end in zip(keys, ends, strict=True)}


def four_digits(value: str) -> str:
    """Return a number of more than six characters with four significant digits; anything else unchanged."""
    try:
        return f"{float(value):.4g}" if len(value) > 6 else value
    except ValueError:
        return value


def brief(value: str) -> str:
    """Return a value for a small space: four digits of a number, the end of a long text."""
    value = four_digits(value)
    return value if len(value) <= BRIEF else "…" + value[1 - BRIEF :]
