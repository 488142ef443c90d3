"""The page of a sweep in a browser: plots drawn without a network, rows sorted by a click, readable in dark mode."""

import pytest

from headwise.sweep.report import write_page
from headwise.sweep.rows import Row

NASTY = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    losses = [(0.03, 2.5), (0.1, 10.0), (0.002, 1.5)]
    rows = [
        Row(i, None, [f"lr={lr}", f"path={NASTY[: 4 + i]}"], "complete", loss, 10, val_losses=[(5, 3.0), (10, loss)])
        for i, (lr, loss) in enumerate(losses)
    ]
    failed = Row(3, None, ["lr=9", f"path={NASTY}"], "failed", why=NASTY)
    folder = tmp_path_factory.mktemp("sweep")
    return write_page(folder, [*rows, failed], ["lr", "path"]).read_text()


def column(page, index):
    return page.eval_on_selector_all("tbody tr", f"rows => rows.map(row => row.cells[{index}].textContent)")


def test_sweep_page_draws_its_plots(visit, text):
    page = visit(text, wait=False)
    assert page.locator(".plotly-graph-div .main-svg").count() >= 3
    assert page.locator(".legend .traces").count() == 3
    assert page.locator("td", has_text=NASTY).count() == 2


def test_sweep_page_sorts_rows_by_numbers_with_empty_cells_last(visit, text):
    page = visit(text, wait=False)
    assert column(page, 0) == ["2", "0", "1", "3"]  # the best first
    loss = page.get_by_role("button", name="val loss")
    loss.click()
    assert column(page, 3) == ["1.5000", "2.5000", "10.0000", "–"]
    loss.click()
    assert column(page, 3) == ["10.0000", "2.5000", "1.5000", "–"]
    page.get_by_role("button", name="lr").click()
    assert column(page, 1) == ["0.002", "0.03", "0.1", "9"]
    assert page.eval_on_selector_all("thead th[aria-sort]", "cells => cells.map(c => c.textContent)") == ["lr"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_sweep_page_has_contrast_in_both_colour_schemes(visit, text, scheme):
    """Text of the table and, its colours inverted in dark mode, of the plots: at least 4.5 to 1 (WCAG AA)."""
    page = visit(text, wait=False, color_scheme=scheme)
    ratio = page.evaluate(
        """() => {
          const numbers = color => color.match(/[\\d.]+/g).slice(0, 3).map(Number);
          const light = rgb => rgb.map(x => x / 255).map(x => x <= 0.04 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4)
            .reduce((sum, x, i) => sum + x * [0.2126, 0.7152, 0.0722][i], 0);
          const contrast = (a, b) => { const [x, y] = [light(a), light(b)].sort(); return (y + 0.05) / (x + 0.05); };
          const style = element => getComputedStyle(element);
          const paper = numbers(style(document.documentElement).backgroundColor);
          const inverted = style(document.querySelector(".plot")).filter !== "none";
          const plot = numbers(style(document.querySelector(".plot .xtick text")).fill)
            .map(x => inverted ? 255 - x * 0.84 - 20 : x);
          return [contrast(numbers(style(document.querySelector("td")).color), paper), contrast(plot, paper)];
        }"""
    )
    assert min(ratio) > 4.5
