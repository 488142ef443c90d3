"""What a grid or sweep leaves: sweep.csv, the table in the terminal, the page where its packages are installed."""

import csv
import io
import math
from importlib.util import find_spec

import pytest
from rich.console import Console

from headwise.sweep.report import report, table_of, write_csv
from headwise.sweep.rows import Row, rows_of, varied_in
from tests.sweep.small import NASTY


def test_sweep_csv_has_a_line_for_each_run(sweep):
    rows = rows_of(sweep)
    write_csv(sweep / "sweep.csv", rows, varied_in(rows))
    lines = list(csv.DictReader((sweep / "sweep.csv").open()))
    metrics = ["previous_token", "first_token", "duplicate_token", "induction"]
    columns = ["run", "model.n_layer", "data.path", "val_loss", "state", "steps", "seconds"]
    assert list(lines[0]) == columns + [n for m in metrics for n in (m, f"{m}_heads")] + ["folder", "why"]
    assert (lines[0]["induction"], lines[0]["induction_heads"]) == ("0.45", "1")
    assert lines[0]["folder"] == str(sweep / "0")
    assert [line["val_loss"] for line in lines] == ["1.25", "1.75", "", ""]
    assert [line["seconds"] for line in lines] == ["7.5", "1.25", "", ""]
    assert lines[1]["induction"] == lines[1]["induction_heads"] == ""
    assert lines[2]["why"] == NASTY
    assert [file.name for file in sweep.glob("sweep*")] == ["sweep.csv"]


def test_table_has_the_best_run_first_and_no_number_is_cut_in_any_width(sweep, capsys):
    report(sweep, rows_of(sweep), console=Console(width=30, file=(out := io.StringIO())))
    lines = out.getvalue().splitlines()
    assert lines[0].split() == ["run", "n_layer", "path", "val", "loss", "steps", "induction", "heads", "state"]
    assert lines[1].split() == ["0", "2", "b", "c", "1.2500", "10", "1", "of", "3", "complete"]
    assert lines[3].split()[-4:] == ["1.7500", "5", "–", "pruned"]
    printed = capsys.readouterr().out
    assert "best             run 0, validation loss 1.2500 nats per token" in printed
    assert f"page             {sweep / 'sweep.html'}" in printed
    assert (sweep / "sweep.html").is_file()


def test_table_in_terminal_is_cut_after_forty_runs(tmp_path, capsys):
    rows = [Row(i, None, [f"seed={i}"], "complete", math.nan) for i in range(55)]
    assert table_of(rows, varied_in(rows)).row_count == 40
    report(tmp_path, rows, console=Console(file=io.StringIO()))
    assert "and 15 more in sweep.csv" in capsys.readouterr().out


@pytest.mark.parametrize("package", ["optuna", "plotly"])
def test_without_the_extra_there_is_no_page_and_the_install_command_is_named(sweep, capsys, monkeypatch, package):
    found = {"optuna": find_spec("optuna"), "plotly": find_spec("plotly")} | {package: None}
    monkeypatch.setattr("headwise.sweep.report.find_spec", found.get)
    report(sweep, rows_of(sweep), console=Console(file=(out := io.StringIO())))
    assert "1.2500" in out.getvalue()
    assert [file.name for file in sweep.glob("sweep*")] == ["sweep.csv"]
    printed = capsys.readouterr()
    assert "page" not in printed.out
    assert (
        printed.err == "headwise: sweep.html was not written: it needs optuna and plotly: pip install -e '.[sweep]'\n"
    )
