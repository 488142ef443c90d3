"""The page of a sweep: one file, escaped, and Optuna's plots of any list of runs."""

import math
import re
from html.parser import HTMLParser

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

from headwise.sweep.page import TEMPLATE, axis_of, figures, study_of, write_page
from headwise.sweep.rows import Row, rows_of, varied_in
from tests.sweep.small import NASTY

TITLES = ["Loss against each parameter", "All parameters at once", "Learning curves"]


class Markup(HTMLParser):
    """A page's links, elements and text, and the rows of its table as lists of cells."""

    def __init__(self, page):
        super().__init__()
        self.links, self.elements, self.rows, self.text = [], [], [], ""
        self.in_cell = False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "srcset", "href")]
        if tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag):
        self.in_cell = self.in_cell and tag not in ("th", "td", "tr", "thead")

    def handle_data(self, data):
        self.text += data
        if self.in_cell:
            self.rows[-1][-1] += data


@pytest.fixture
def page(sweep):
    rows = rows_of(sweep)
    return write_page(sweep, rows, varied_in(rows))


def test_page_is_one_file_that_refers_to_attention_pages_alone(sweep, page):
    text = page.read_text()
    markup = Markup(text)
    links = [link for link in markup.links if not link.startswith("data:")]
    assert links == ["0/attention/view.html"]
    assert (sweep / links[0]).is_file()
    assert "default-src 'none'" in text
    assert text.count("plotly.js v") == 1
    assert [file.name for file in sweep.glob("sweep*")] == ["sweep.html"]


def test_page_shows_text_of_runs_escaped(page):
    text = page.read_text()
    assert NASTY in Markup(text).text
    assert "<script>alert" not in text
    assert text.count("<script") == text.count("</script") == 5  # plotly, three plots, sorting


def test_table_on_page_has_best_run_first_with_heads_per_metric(page):
    head, best, _, pruned, failed = (row for row in Markup(page.read_text()).rows if row)
    assert head[:6] == ["run", "n_layer", "path", "val loss", "steps", "state"]
    assert head[6:] == [
        "previous token heads",
        "first token heads",
        "duplicate token heads",
        "induction heads",
        "attention",
    ]
    assert best[:7] == ["0", "2", "b c", "1.2500", "10", "complete", "2 of 3 0.70"]
    assert best[-2].startswith("1 of 3 0.45")
    assert pruned[3:6] == ["1.7500", "5", "pruned at step 5 of 10"]
    assert failed[3:6] == ["–", "0", f"failed {NASTY}"]
    assert "1 complete, 1 unfinished, 1 pruned, 1 failed. Best: run 0, validation loss 1.2500" in page.read_text()


def test_study_has_a_trial_for_each_run(sweep):
    rows = rows_of(sweep)[:2]
    trials = study_of(rows, varied_in(rows)).trials
    assert [trial.value for trial in trials] == [1.25, 1.75]
    assert [trial.params["n_layer"] for trial in trials] == [2, 4]
    assert trials[0].intermediate_values == {5: 2.0, 10: 1.5}
    assert [trial.constraints["trained to the end"] for trial in trials] == [0.0, 1.0]


def test_plots_are_those_for_which_runs_have_data(sweep):
    rows = rows_of(sweep)
    assert list(figures(rows, varied_in(rows))) == TITLES
    assert list(figures(rows[:1], ["model.n_layer"])) == [TITLES[0], TITLES[2]]
    assert figures(rows[2:], ["model.n_layer"]) == {}
    assert figures([], []) == {}


def test_plots_name_runs_by_their_numbers(sweep):
    """Trial i of the study is not run i: the first run is left out here."""
    rows = [Row(i + 3, None, [f"seed={i}", f"a={i}"], "complete", 2 - i / 10, val_losses=[(9, 1.0)]) for i in range(3)]
    plots = figures(rows, ["seed", "a"])
    assert list(plots[TITLES[0]].data[0].marker.color) == [3, 4, 5]
    assert [trace.hovertemplate[-17:] for trace in plots[TITLES[1]].data[:3]] == [
        f"<extra>run {i}</extra>"[-17:] for i in (3, 4, 5)
    ]
    curves = plots[TITLES[2]].data
    assert [(curve.name, curve.legendrank) for curve in curves] == [
        ("3: seed=0 a=0", 2),
        ("4: seed=1 a=1", 1),
        ("5: seed=2 a=2", 0),
    ]


def test_many_runs_with_extreme_losses_missing_values_and_long_names_can_be_drawn():
    losses = [1.0, 1.1, 1.05, 1e9, 3.0, math.nan] * 9
    overrides = [[f"model.n_embd={8 + i}", f"data.path={'x' * 90}{i % 3}"][: 1 + i % 2] for i in range(len(losses))]
    states = ["complete", "pruned", "running"]
    rows = [
        Row(i, None, overrides[i], states[i % 3], loss, 10, val_losses=[(10, loss)]) for i, loss in enumerate(losses)
    ]
    assert list(figures(rows, varied_in(rows))) == TITLES


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([str(0.1**i) for i in range(9)], FloatDistribution, {"log": True, "low": 0.1**8, "high": 1.0}),
        ([str(i) for i in range(10, 20)], FloatDistribution, {"log": False, "low": 10, "high": 19}),
        (["0.01234567", "0.02"], FloatDistribution, {"log": False}),
        (["16", "4", "0.5"], CategoricalDistribution, {"choices": (0.5, 4, 16)}),
        (["0.00123456"], CategoricalDistribution, {"choices": (0.00123456,)}),
        (["1", "1.0"], CategoricalDistribution, {"choices": ("1", "1.0")}),
        (["rotary", "<b>", "null"], CategoricalDistribution, {"choices": ("&lt;b&gt;", "null", "rotary")}),
        ([f"b{'a' * 30}", "a" * 31], CategoricalDistribution, {"choices": ("a" * 31, f"b{'a' * 30}")}),
        (["nan", "1"], CategoricalDistribution, {"choices": ("1", "nan")}),
    ],
)  # fmt: skip
def test_axis_is_numeric_for_many_numbers_logarithmic_for_wide_ones_and_else_categories(values, kind, expected):
    distribution, shown = axis_of(set(values))
    assert type(distribution) is kind
    assert {name: pytest.approx(x) if isinstance(x, float) else x for name, x in expected.items()} == {
        name: getattr(distribution, name) for name in expected
    }
    assert set(shown) == set(values)
    assert all(distribution._contains(distribution.to_internal_repr(value)) for value in shown.values())


def test_template_has_a_place_for_each_part():
    parts = ["title", "plotly", "title", "summary", "table", "figures"]
    assert re.findall(r"\{\{(\w+)\}\}", TEMPLATE.read_text()) == parts
