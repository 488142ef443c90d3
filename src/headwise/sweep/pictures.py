"""Pictures that compare the runs of a sweep, as PNG, in colours for white and for dark pages.

draw(rows, varied, "light") -> {"loss_by_parameter": b"...", ...}
"""

from __future__ import annotations

import io
import math
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from headwise.inspection.head_scores import FORMED
from headwise.sweep.report import BRIEF, Row, brief, by_loss, names_of

THEMES = {  # paper, ink, faint ink, lines, marks
    "light": ("#ffffff", "#1b1f27", "#59606d", "#d9dde4", "#1d4ed8"),
    "dark": ("#12151b", "#e8ebf0", "#a0a8b5", "#333a46", "#8ab4f8"),
}
COLOURS = matplotlib.colormaps["viridis"]
PARAMETERS, HEAD_ROWS, NAMED = 12, 30, 8  # parameters with a panel; runs with a row of heads; curves with a name
FEW, DRAWN = 8, 7  # distinct numbers that are told apart as names are; brief that only a sampler would give
LABEL = 44  # characters of a run's name


def draw(rows: list[Row], varied: list[str], theme: str) -> dict[str, bytes]:
    """Every picture that the runs have something for: name -> PNG."""
    paper, ink, soft, line, _ = THEMES[theme]
    style: dict[Any, Any] = {
        "figure.facecolor": paper, "axes.facecolor": paper, "savefig.facecolor": paper, "text.color": ink,
        "axes.labelcolor": ink, "axes.edgecolor": soft, "xtick.color": soft, "ytick.color": soft, "grid.color": line,
        "xtick.labelcolor": ink, "ytick.labelcolor": ink, "font.size": 9, "axes.spines.top": False,
        "axes.spines.right": False, "axes.titlesize": 10, "legend.frameon": False, "axes.grid": False,
    }  # fmt: skip
    measured = [row for row in rows if math.isfinite(row.val_loss)]
    makers = {
        "loss_by_parameter": (loss_by_parameter, bool(measured and varied)),
        "parallel_coordinates": (parallel_coordinates, len(measured) > 1 and len(varied) > 1),
        "learning_curves": (learning_curves, any(row.curve for row in measured)),
        "heads": (heads, any(row.formed for row in measured)),
    }
    pictures = {}
    with matplotlib.rc_context(style):
        for name, (make, there) in makers.items():
            if there:
                figure = make(by_loss(measured), varied, theme)
                out = io.BytesIO()
                figure.savefig(out, format="png", dpi=130)
                pictures[name] = out.getvalue()
    return pictures


def figure_of(width: float, height: float) -> Figure:
    """An empty figure, in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


class Scale:
    """Where a parameter's values lie on an axis: numbers by their size, or their logarithm where they span much;
    names, and numbers of which there are few, side by side."""

    def __init__(self, key: str, rows: list[Row]):
        self.key = key
        values = {row.values.get(key, "–") for row in rows}
        numbers = {value: as_number(value) for value in values}
        many = len(values) > FEW or any(len(value) > DRAWN for value in values)
        self.numeric = many and len(values) > 1 and all(map(math.isfinite, numbers.values()))
        self.names = sorted(values, key=lambda value: (not math.isfinite(numbers[value]), numbers[value], value))
        if not all(map(math.isfinite, numbers.values())):
            self.names = sorted(values)
        span = [number for number in numbers.values() if math.isfinite(number)]
        self.log = self.numeric and min(span) > 0 and max(span) / min(span) >= 10

    def place(self, row: Row) -> float:
        """The place of a run's value."""
        value = row.values.get(self.key, "–")
        return as_number(value) if self.numeric else float(self.names.index(value))


def as_number(value: str) -> float:
    """A value's number, or NaN."""
    try:
        return float(value)
    except ValueError:
        return math.nan


def clipped(text: str, length: int) -> str:
    """Text of at most `length` characters. ($ would begin a formula.)"""
    text = text if len(text) <= length else text[: length - 1] + "…"
    return text.replace("$", r"\$")


def limit(rows: list[Row]) -> float:
    """The greatest loss that is drawn: runs far above the others would press these together."""
    losses = sorted(row.val_loss for row in rows if row.state == "complete") or sorted(row.val_loss for row in rows)
    middle = losses[len(losses) // 2]
    most = max(row.val_loss for row in rows)
    return min(most, losses[0] + max(4 * (middle - losses[0]), 0.25 * losses[0]))


def colours(rows: list[Row], theme: str) -> dict[int, Any]:
    """A colour for each run by its loss: the best stands out most against the paper."""
    top, (best, worst) = limit(rows), (0.0, 0.82) if theme == "light" else (0.95, 0.25)
    norm = Normalize(min(row.val_loss for row in rows), top)
    return {row.number: COLOURS(best + (worst - best) * float(norm(min(row.val_loss, top)))) for row in rows}


def loss_by_parameter(rows: list[Row], varied: list[str], theme: str) -> Figure:
    """Loss against each parameter: complete runs filled, others hollow, those beyond the scale at the top."""
    _, ink, _, _, mark = THEMES[theme]
    keys, top, low = varied[:PARAMETERS], limit(rows), min(row.val_loss for row in rows)
    margin = 0.06 * (top - low) or 0.02 * abs(low) or 0.01
    across = min(3, len(keys))
    down = -(-len(keys) // across)
    figure = figure_of(max(5.6, 3.7 * across), 3.2 * down)
    names = names_of(varied)
    panels = figure.subplots(down, across, squeeze=False, sharey=True)
    for axes in panels.flat[len(keys) :]:
        axes.set_visible(False)
    for key, axes in zip(keys, panels.flat, strict=False):
        scale = Scale(key, rows)
        for row in rows:
            at, over = scale.place(row), row.val_loss > top
            face = mark if row.state == "complete" else "none"
            axes.plot(
                at,
                min(row.val_loss, top),
                marker="^" if over else "o",
                ms=5.5,
                mfc=face,
                mec=mark,
                alpha=0.8,
                ls="none",
                clip_on=False,
            )
        axes.set_ylim(low - margin, top + margin)
        axes.grid(axis="y", lw=0.6)
        axes.set_axisbelow(True)
        if scale.log:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=6))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
            axes.xaxis.set_minor_locator(NullLocator())
        if not scale.numeric:
            for place, name in enumerate(scale.names):
                here = [row.val_loss for row in rows if row.values.get(key, "–") == name and row.state == "complete"]
                if here and np.mean(here) <= top:
                    axes.hlines(np.mean(here), place - 0.22, place + 0.22, color=ink, lw=1.2)
            name_ticks(axes, scale)
        axes.set_title(clipped(names[key], LABEL))
    for axes in panels[:, 0]:
        axes.set_ylabel("validation loss")
    return figure


def name_ticks(axes: Axes, scale: Scale) -> None:
    """Names under their places, tilted where they would run into each other."""
    labels = [clipped(brief(name), BRIEF) for name in scale.names]
    tilted = sum(map(len, labels)) > 26
    turn: dict[str, Any] = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if tilted else {}
    axes.set_xticks(range(len(labels)), labels, **turn)
    axes.set_xlim(-0.5, len(labels) - 0.5)
    axes.xaxis.set_minor_locator(NullLocator())


def parallel_coordinates(rows: list[Row], varied: list[str], theme: str) -> Figure:
    """A line for each run through its parameters to its loss; the better, the stronger its colour and the further in
    front. Those ended early are thin."""
    _, ink, soft, line, _ = THEMES[theme]
    keys, top, low = varied[:PARAMETERS], limit(rows), min(row.val_loss for row in rows)
    names, scales = names_of(varied), [Scale(key, rows) for key in varied[:PARAMETERS]]
    figure = figure_of(max(6.4, 1.9 * (len(keys) + 1)), 4.2)
    axes = figure.add_subplot()
    ends, tone = [extent(scale, rows) for scale in scales], colours(rows, theme)
    for row in reversed(rows):
        heights = [share(scale.place(row), end, scale.log) for scale, end in zip(scales, ends, strict=True)]
        heights.append((min(row.val_loss, top) - low) / ((top - low) or 1))
        whole = row.state == "complete"
        style: dict[str, Any] = {"lw": 1.8, "alpha": 0.9} if whole else {"lw": 0.7, "alpha": 0.7}
        axes.plot(range(len(keys) + 1), heights, color=tone[row.number] if whole else soft, **style)
    for place, (scale, end) in enumerate(zip(scales, ends, strict=True)):
        for height, name in ticks(scale, end):
            patch = {"facecolor": axes.get_facecolor(), "edgecolor": "none", "pad": 0.6, "alpha": 0.75}
            axes.annotate(
                clipped(name, BRIEF), (place, height), xytext=(4, 0), textcoords="offset points", va="center",
                fontsize=8, color=ink, bbox=patch,
            )  # fmt: skip
    for height in (0.0, 0.5, 1.0):
        text = f"{low + height * (top - low):.3f}" + (
            "+" if height == 1 and max(r.val_loss for r in rows) > top else ""
        )
        axes.annotate(text, (len(keys), height), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.vlines(range(len(keys) + 1), 0, 1, color=line, lw=1.2, zorder=0)
    axes.set_xticks(range(len(keys) + 1), [clipped(names[key], 20) for key in keys] + ["validation loss"])
    axes.tick_params(axis="x", length=0)
    axes.set_yticks([])
    axes.set(xlim=(-0.15, len(keys) + 0.4), ylim=(-0.06, 1.06))
    for side in axes.spines.values():
        side.set_visible(False)
    return figure


def extent(scale: Scale, rows: list[Row]) -> tuple[float, float]:
    """The least and the greatest place on a scale."""
    places = [scale.place(row) for row in rows]
    return min(places), max(places)


def share(place: float, end: tuple[float, float], log: bool) -> float:
    """A place as a part of its scale's length."""
    low, high, at = (math.log(x) if log else x for x in (*end, place))
    return (at - low) / (high - low) if high > low else 0.5


def ticks(scale: Scale, end: tuple[float, float]) -> list[tuple[float, str]]:
    """What is written beside an axis, and how high."""
    if not scale.numeric:
        return [(share(i, end, False), brief(name)) for i, name in enumerate(scale.names)]
    low, high = end
    middle = math.sqrt(low * high) if scale.log else (low + high) / 2
    return [(share(x, end, scale.log), f"{x:.3g}") for x in (low, middle, high)]


def learning_curves(rows: list[Row], varied: list[str], theme: str) -> Figure:
    """Validation loss against steps; those ended early are thin and end in a dot."""
    _, ink, soft, _, _ = THEMES[theme]
    top, tone = limit(rows), colours(rows, theme)
    figure = figure_of(9.2, 4.2)
    axes = figure.add_subplot()
    for place, row in reversed(list(enumerate(rows))):
        if not row.curve:
            continue
        steps, losses = zip(*row.curve, strict=True)
        whole = row.state == "complete"
        style: dict[str, Any] = {"lw": 1.8} if whole else {"lw": 0.8, "marker": "o", "markevery": [-1], "ms": 3}
        if len(steps) == 1:
            style |= {"marker": "o", "ms": 4}  # a line of one point cannot be seen
        name = clipped(f"{row.number}: {name_of(row, varied)}", LABEL + 6) if place < NAMED else None
        axes.plot(
            steps, losses, color=tone[row.number] if whole else soft, label=name, zorder=len(rows) - place, **style
        )
    finite = [loss for row in rows for _, loss in row.curve]
    first = [row.curve[0][1] for row in rows if row.curve]
    low, high = min(finite), max(top, float(np.median(first)))
    axes.set_ylim(low - 0.05 * (high - low or 1), high + 0.05 * (high - low or 1))
    axes.set(xlabel="optimizer step", ylabel="validation loss")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(lw=0.6)
    handles, labels = axes.get_legend_handles_labels()
    title = "the best first" if len(rows) <= NAMED else f"the best {NAMED} of {len(rows)}"
    legend = figure.legend(handles[::-1], labels[::-1], loc="outside right upper", fontsize=8, title=title)
    legend.get_title().set_fontsize(8)
    legend.get_title().set_color(ink)
    return figure


def name_of(row: Row, varied: list[str]) -> str:
    """What tells a run from the others."""
    names = names_of(varied)
    return " ".join(f"{names[key]}={brief(row.values.get(key, '–'))}" for key in varied)


def heads(rows: list[Row], varied: list[str], theme: str) -> Figure:
    """How many heads of each kind a configuration has at its last look, coloured by the best one's score."""
    paper, ink, _, _, _ = THEMES[theme]
    shown = [row for row in rows if row.formed][:HEAD_ROWS]
    metrics = [metric for metric in FORMED if any(metric in row.formed for row in shown)]
    scores = np.array([[row.best.get(metric, math.nan) for metric in metrics] for row in shown])
    figure = figure_of(9.2, 1.3 + 0.27 * len(shown))
    axes = figure.add_subplot()
    colour = matplotlib.colormaps["Blues" if theme == "light" else "Blues_r"].with_extremes(bad=paper)
    image = axes.imshow(scores, vmin=0, vmax=1, cmap=colour, aspect="auto")
    for y, row in enumerate(shown):
        for x, metric in enumerate(metrics):
            if metric in row.formed:
                strong = scores[y, x] > (0.55 if theme == "light" else 0.4)
                text = f"{row.formed[metric]} of {row.heads}"
                light = "#ffffff" if theme == "light" else "#12151b"
                axes.text(x, y, text, ha="center", va="center", fontsize=8, color=light if strong else ink)
    labels = [clipped(f"{row.number}: {name_of(row, varied)}", LABEL + 6) for row in shown]
    axes.set_yticks(range(len(shown)), labels, fontsize=8)
    named = [f"{metric.replace('_', ' ')}\nabove {FORMED[metric]}" for metric in metrics]
    axes.set_xticks(range(len(metrics)), named, fontsize=8)
    axes.tick_params(length=0)
    axes.xaxis.tick_top()
    for side in axes.spines.values():
        side.set_visible(False)
    bar = figure.colorbar(image, ax=axes, fraction=0.03, pad=0.02)
    bar.ax.tick_params(labelsize=8)
    bar.set_label("best head's score", fontsize=8)
    bar.outline.set_visible(False)
    return figure
