"""The page that compares the runs of a grid or sweep: a sortable table and Optuna's interactive plots, in one file.

    write_page(folder, rows, varied)    # writes folder/sweep.html

Any list of runs becomes an Optuna study in memory, so that a grid is drawn like a search. Needs the extra `sweep`
(optuna, plotly). The file contains plotly's script and needs no network.
"""

from __future__ import annotations

import ast
import html
import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from headwise.files import write_text
from headwise.sweep.rows import Row, best_first, best_of, brief, four_digits, metrics_in, short_names, summary_of

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from plotly.graph_objects import Figure

TEMPLATE = Path(__file__).with_name("page.html")
LOSS = "validation loss"
MANY, LONG = 8, 7  # more distinct numbers than this, or longer ones, are drawn on a number axis; others as categories
ABOUT = {
    "Loss against each parameter": "The stronger the colour, the later the run. Grey: not trained to the end.",
    "All parameters at once": "The stronger a run's colour, the lower its loss. Dotted: not trained to the end.",
    "Learning curves": "Best run first. Click a run's name to hide it, double-click it to hide all others.",
}


def write_page(folder: Path, rows: list[Row], varied: list[str]) -> Path:
    """Write sweep.html and return its path. `varied` are the keys in which the runs differ."""
    from plotly.offline import get_plotlyjs

    parts = {
        "title": text(str(folder)),
        "summary": text(summary_of(rows)),
        "table": table(folder, rows, varied),
        "plotly": get_plotlyjs(),
        "figures": "\n".join(section(title, figure) for title, figure in figures(rows, varied).items()),
    }
    page = re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], TEMPLATE.read_text(encoding="utf-8"))
    write_text(folder / "sweep.html", page)
    return folder / "sweep.html"


def figures(rows: list[Row], varied: list[str]) -> dict[str, Figure]:
    """Return the plots for which the runs have data, by title."""
    from optuna import visualization

    measured = [row for row in rows if math.isfinite(row.val_loss)]
    curves = [row for row in measured if row.val_losses]
    varied = [key for key in varied if any(key in row.values for row in measured)]
    names, study = short_names(varied), study_of(measured, varied)
    found: dict[str, Figure] = {}
    if varied:
        found["Loss against each parameter"] = figure = visualization.plot_slice(study, target_name=LOSS)
        for trace in figure.data:
            run = "not trained to the end"
            if trace.name == "Feasible Trial":  # its colours are numbers of trials
                numbers, run = [measured[i].number for i in trace.marker.color], "run %{marker.color}"
                trace.marker.update(color=numbers, colorbar_title_text="run")
            trace.hovertemplate = f"%{{x}}<br>{LOSS} %{{y:.4f}}<extra>{run}</extra>"
        figure.for_each_xaxis(label_categories)
    if len(measured) > 1 and len(varied) > 1:
        figure = visualization.plot_parallel_coordinate(study, target_name=LOSS)
        for trace, row in zip(figure.data, measured, strict=False):
            trace.hovertemplate = f"%{{customdata[0]}}: %{{customdata[1]}}<extra>run {row.number}</extra>"
        figure.update_annotations(font_color=None)
        found["All parameters at once"] = figure.update_layout(showlegend=False)
    if curves:
        figure, ranking = visualization.plot_intermediate_values(study), best_first(curves)
        for trace, row in zip(figure.data, curves, strict=True):
            name = " ".join([f"{row.number}:", *(f"{names[key]}={brief(row.values.get(key, '–'))}" for key in varied)])
            trace.update(name=html.escape(name, quote=False), legendrank=ranking.index(row))
        layout = {"xaxis_title": "optimizer step", "yaxis_title": LOSS, "showlegend": True}
        found["Learning curves"] = figure.update_layout(layout)
    return found


def study_of(rows: list[Row], varied: list[str]) -> Study:
    """Return a study in memory whose trial i is rows[i]. Optuna draws completed trials only. For runs that were pruned
    or interrupted to be drawn too, they are completed trials that violate a constraint, which it draws in grey."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    names, study = short_names(varied), optuna.create_study()
    axes = {key: axis_of({row.values[key] for row in rows if key in row.values}) for key in varied}
    for row in rows:
        keys = [key for key in varied if key in row.values]
        trial = optuna.trial.create_trial(
            params={names[key]: axes[key][1][row.values[key]] for key in keys},
            distributions={names[key]: axes[key][0] for key in keys},
            value=row.val_loss,
            intermediate_values=dict(row.val_losses),
            constraints={"trained to the end": 0.0 if row.state == "complete" else 1.0},
        )
        study.add_trial(trial)
    return study


def axis_of(values: set[str]) -> tuple[BaseDistribution, dict[str, Any]]:
    """Return the distribution of a parameter's values, and each value as Optuna gets it. Many numbers are a range,
    logarithmic if it spans a factor of 10; anything else are categories, in order."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    numbers = {value: number_of(value) for value in values}
    low, high = min(numbers.values()), max(numbers.values())
    if all(map(math.isfinite, numbers.values())) and len(set(numbers.values())) == len(values):
        if len(values) > MANY or (any(len(value) > LONG for value in values) and low < high):
            return FloatDistribution(low, high, log=low > 0 and high / low >= 10), numbers
        return CategoricalDistribution(sorted(numbers.values())), numbers
    clip = brief if len(set(map(brief, values))) == len(values) else str
    names = {value: html.escape(clip(value), quote=False) for value in values}
    return CategoricalDistribution(sorted(names.values())), names


def number_of(value: str) -> float:
    """Return the number that a text is, NaN if it is none."""
    try:
        return int(value) if value.isdecimal() else float(value)
    except ValueError:
        return math.nan


def label_categories(axis: Any) -> None:
    """Label an axis of categories with the values, where Optuna has their repr."""
    if axis.categoryarray:
        labels = [str(ast.literal_eval(category)) for category in axis.categoryarray]
        axis.update(tickmode="array", tickvals=axis.categoryarray, ticktext=labels)


def section(title: str, figure: Figure) -> str:
    """Return a plot as markup, with its title. The page inverts its colours in dark mode."""
    clear = "rgba(0,0,0,0)"
    figure.update_layout(title=None, template="plotly_white", margin_t=30, paper_bgcolor=clear, plot_bgcolor=clear)
    name = title.lower().replace(" ", "_")
    options = {"displaylogo": False, "responsive": True}
    plot = figure.to_html(options, full_html=False, include_plotlyjs=False, div_id=name, default_height="430px")
    return f'<section><h2>{title}</h2><p>{ABOUT[title]}</p><div class="plot">{plot}</div></section>'


def text(value: str) -> str:
    """Return text as markup. Half surrogate pairs, which no file can hold, become question marks."""
    return html.escape(value.encode("utf-8", "replace").decode())


def table(folder: Path, rows: list[Row], varied: list[str]) -> str:
    """Return the runs as an HTML table, the best first."""
    names, metrics, best = short_names(varied), metrics_in(rows), best_of(rows)
    columns = ["run", *(names[key] for key in varied), "val loss", "steps", "state"]
    columns += [f"{metric.replace('_', ' ')} heads" for metric in metrics] + ["attention"]
    lines = ["".join(f'<th scope="col"><button>{text(column)}</button></th>' for column in columns)]
    for row in best_first(rows):
        loss, page = f"{row.val_loss:.4f}" if math.isfinite(row.val_loss) else "–", row.attention_page
        cells = [text(four_digits(row.values.get(key, "–"))) for key in varied] + [loss, str(row.steps)]
        cells.append(text(row.state) + (f' <small class="why">{text(row.why)}</small>' if row.why else ""))
        for metric in metrics:
            score = row.top_scores.get(metric, 0)
            shown = f'<small class="score" style="--score: {score:.2f}">{score:.2f}</small>'
            cells.append(f"{row.head_counts[metric]} of {row.n_heads} {shown}" if metric in row.head_counts else "–")
        cells.append(f'<a href="{text(quote(os.path.relpath(page, folder)))}">open</a>' if page else "–")
        opened = f'<tr class="{row.state}{" best" if row is best else ""}"><th scope="row">{row.number}</th>'
        lines.append(opened + "".join(f"<td>{cell}</td>" for cell in cells))
    return f"<table><thead><tr>{lines[0]}</thead><tbody>\n" + "\n".join(lines[1:]) + "\n</tbody></table>"
