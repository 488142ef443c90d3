"""What is told of a sweep: the same from folders of any origin, whole, escaped and without a network."""

import csv
import io
import json
import re
from html.parser import HTMLParser

import pytest
import yaml
from PIL import Image
from rich.console import Console

from headwise.inspection.recorder import COLUMNS
from headwise.sweep.multirun import note_end
from headwise.sweep.pictures import Scale, draw
from headwise.sweep.report import Row, by_loss, read_heads, report, rows_of, table_of, varied_in
from headwise.training.metrics import METRICS

NASTY = "<script>alert('$x$')</script>"


def run(folder, number, overrides, curve, summary=None, heads=()):
    """A run's folder, as a training leaves it."""
    place = folder / str(number)
    (place / "attention").mkdir(parents=True)
    (place / "overrides.yaml").write_text(yaml.safe_dump(overrides))
    with (place / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, METRICS, restval="")
        writer.writeheader()
        writer.writerows({"step": step, "val_loss": loss} for step, loss in curve)
    if summary:
        (place / "summary.json").write_text(json.dumps(summary))
    if heads:
        (place / "attention/view.html").write_text("a page")
        with (place / "attention/heads.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, restval="")
            writer.writeheader()
            writer.writerows(heads)


def head(step, model_input, layer, number, **scores):
    return {"step": step, "input": model_input, "layer": layer, "head": number} | scores


@pytest.fixture
def sweep(tmp_path):
    """Four runs: complete, pruned, failed, killed; and something that is none."""
    folder = tmp_path / "a sweep & more"
    looks = [
        head(5, "val", 0, 0, previous_token=0.9),
        head(5, "repeats", 0, 0, induction=0.9),
        head(10, "text", 0, 0, previous_token=0.99),
        head(10, "val", 0, 0, previous_token=0.7, first_token=0.1),
        head(10, "val", 0, 1, previous_token=0.51, first_token=0.2),
        head(10, "val", 1, 0, previous_token=0.5, first_token=0.31),
        head(10, "repeats", 0, 0, induction=0.2, duplicate_token=0.3),
        head(10, "repeats", 0, 1, induction=0.1, duplicate_token=0.5),
        head(10, "repeats", 1, 0, induction=0.45, duplicate_token=0.1),
    ]
    common = ["run_dir=x", "seed=3"]
    done = {"val_loss": 1.25, "steps": 10, "train_seconds": 7.5}
    run(folder, 0, [*common, "model.n_layer=2", "data.path='b c'"], [(5, 2.0), (10, 1.5)], done, looks)
    run(folder, 1, [*common, "model.n_layer=4", f"data.path={NASTY}"], [(5, 1.75)])
    note_end(folder / "1", [*common, "model.n_layer=4", f"data.path={NASTY}"], "pruned", "at step 5 of 10")
    note_end(folder / "2", [*common, "model.n_layer=4", "data.path=d", "resume=auto"], "failed", NASTY, 1)
    run(folder, 10, [*common, "model.n_layer=2", "data.path=e"], [])
    (folder / "11").mkdir()
    (folder / "notes").mkdir()
    return folder


def test_a_damaged_file_costs_its_run_alone(sweep, capsys):
    before = {row.number: row.state for row in rows_of(sweep)}
    (sweep / "0/summary.json").write_text("{bad")
    assert {row.number: row.state for row in rows_of(sweep)} == before | {0: "unfinished"}
    assert "0/summary.json is damaged, and left out" in capsys.readouterr().err


def test_rows_say_what_each_run_came_to(sweep):
    rows = rows_of(sweep)
    assert [(row.number, row.state, row.steps) for row in rows] == [
        (0, "complete", 10),
        (1, "pruned", 5),
        (2, "failed", 0),
        (10, "unfinished", 0),
    ]
    assert [row.val_loss for row in rows[:2]] == [1.25, 1.75]  # of the whole split, where the summary tells it
    assert varied_in(rows) == ["model.n_layer", "data.path"]
    assert rows[0].values == {"seed": "3", "model.n_layer": "2", "data.path": "b c"}
    assert [row.number for row in by_loss(rows)] == [0, 10, 1, 2]


def test_heads_are_those_of_the_last_look_on_the_probe_that_tells(sweep):
    row = rows_of(sweep)[0]
    assert row.heads == 3
    assert row.formed == {"previous_token": 2, "first_token": 1, "duplicate_token": 1, "induction": 1}
    assert row.best == {"previous_token": 0.7, "first_token": 0.31, "duplicate_token": 0.5, "induction": 0.45}


def test_a_damaged_table_costs_that_run_its_heads_and_no_more(sweep):
    file = sweep / "0/attention/heads.csv"
    file.write_text(file.read_text().replace("10,val,0,0", "ten,val,0,0"))
    row = rows_of(sweep)[0]
    assert (row.state, row.val_loss, row.formed) == ("complete", 1.25, {})
    assert "is damaged in line" in row.why


def test_sweep_csv_has_a_row_for_each_run(sweep):
    report(sweep, rows_of(sweep), whole=False)
    rows = list(csv.DictReader((sweep / "sweep.csv").open()))
    assert list(rows[0])[:6] == ["run", "model.n_layer", "data.path", "val_loss", "state", "steps"]
    assert rows[0]["induction"] == "0.45"
    assert rows[0]["induction_heads"] == "1"
    assert rows[0]["folder"] == str(sweep / "0")
    assert [row["val_loss"] for row in rows] == ["1.25", "1.75", "", ""]
    assert rows[2]["why"] == NASTY
    assert [file.name for file in sweep.glob("sweep*")] == ["sweep.csv"]


def test_the_table_has_the_best_first_and_no_number_is_cut_in_any_width(sweep, capsys):
    report(sweep, rows_of(sweep), console=Console(width=30, file=(out := io.StringIO())))
    lines = out.getvalue().splitlines()
    assert lines[0].split() == ["run", "n_layer", "path", "val", "loss", "steps", "induction", "heads", "state"]
    assert lines[1].split() == ["0", "2", "b", "c", "1.2500", "10", "1", "of", "3", "complete"]
    assert lines[3].split()[-4:] == ["1.7500", "5", "–", "pruned"]
    assert "best             run 0, validation loss 1.2500 nats per token" in capsys.readouterr().out


class Links(HTMLParser):
    """Everything that a page refers to, and its elements."""

    def __init__(self, page):
        super().__init__()
        self.found, self.elements, self.text = [], [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.found += [value for name, value in attrs if name in ("src", "srcset", "href")]

    def handle_data(self, data):
        self.text += data


def test_the_page_is_one_file_with_its_pictures_and_relative_links(sweep):
    report(sweep, rows_of(sweep), console=Console(file=io.StringIO()))
    page = Links((sweep / "sweep.html").read_text())
    outside = [link for link in page.found if not link.startswith("data:")]
    assert outside == ["0/attention/view.html"]
    assert (sweep / outside[0]).is_file()
    assert page.elements.count("img") == page.elements.count("source") == 4
    assert "script" not in page.elements
    assert NASTY in page.text  # as text
    assert "at step 5 of 10" in page.text
    assert "1 complete, 1 pruned, 1 failed, 1 unfinished. Best: run 0" in page.text


def test_pictures_are_those_for_which_there_is_something_in_both_themes(sweep):
    rows = rows_of(sweep)
    names = ["loss_by_parameter", "parallel_coordinates", "learning_curves", "heads"]
    for theme, paper in (("light", (255, 255, 255)), ("dark", (18, 21, 27))):
        drawn = draw(rows, varied_in(rows), theme)
        assert list(drawn) == names
        for picture in drawn.values():
            image = Image.open(io.BytesIO(picture)).convert("RGB")
            assert image.getpixel((2, 2)) == paper
            assert len(image.getcolors(1 << 20)) > 20
    assert list(draw(rows[:1], ["model.n_layer"], "light")) == ["loss_by_parameter", "learning_curves", "heads"]
    assert draw(rows[2:], ["model.n_layer"], "light") == {}


def test_many_runs_with_extreme_losses_and_long_names_can_be_drawn():
    rows = [
        Row(
            i, None, [f"model.n_embd={8 + i}", f"data.path={'x' * 90}{i % 3}"], "complete", loss, 10, curve=[(10, loss)]
        )
        for i, loss in enumerate([1.0, 1.1, 1.05, 1e9, 3.0] * 11)
    ]
    assert len(draw(rows, varied_in(rows), "dark")) == 3
    assert table_of(rows, varied_in(rows)).row_count == 40


def test_scales_are_logarithmic_where_numbers_span_much_and_names_stand_side_by_side():
    def scale(values):
        return Scale("seed", [Row(i, None, [f"seed={value}"], "complete") for i, value in enumerate(values)])

    wide, narrow, few, names = scale([0.1**i for i in range(9)]), scale(range(10, 20)), scale([16, 4, 8]), scale("bca")
    assert (wide.numeric, wide.log) == (True, True)
    assert (narrow.numeric, narrow.log) == (True, False)
    assert (few.numeric, few.names) == (False, ["4", "8", "16"])
    assert (names.numeric, names.names) == (False, ["a", "b", "c"])


def test_a_run_without_looks_has_no_heads(tmp_path):
    row = Row(0, tmp_path, [], "complete")
    read_heads(row, tmp_path / "absent.csv")
    assert (row.heads, row.best, row.page) == (0, {}, None)


def test_the_template_has_a_place_for_each_part():
    from headwise.sweep.page import TEMPLATE

    assert set(re.findall(r"\{\{(\w+)\}\}", TEMPLATE.read_text())) == {"title", "summary", "pictures", "table"}
