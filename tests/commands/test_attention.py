"""headwise attention: the page, the attention grid, scores and walkthroughs of a trained run."""

import json

import pytest
from PIL import Image

from tests.browser.views import data_of
from tests.small import script, script_here


def test_attention_writes_the_page_and_the_attention_grid(run, tmp_path):
    wanted = ["--checkpoint", run[1], "--prompt", "The yield statement", "--output", "a.html", "--png", "a.png"]
    result = script("attention", *wanted, cwd=tmp_path)
    assert result.stdout == "a.html\na.png\n"
    assert (tmp_path / "a.html").read_text().startswith("<!doctype html>")
    assert Image.open(tmp_path / "a.png").width > 500


def test_attention_prints_the_walkthrough_of_a_head_and_starts_the_page_there(run, tmp_path):
    at = ["--layer", 1, "--head", 0, "--query", 4]
    flags = ["--checkpoint", run[1], "--prompt", "The yield statement"]
    shown = script_here("attention", *flags, *at, "--output", "a.html", cwd=tmp_path).stdout
    assert shown.startswith("Head 1.0 (layer 1, head 0), query 4 y\nOver the whole text, this head ")
    assert shown.endswith("a.html\n")
    data = data_of((tmp_path / "a.html").read_text())
    assert data["start"] == {"layer": 1, "head": 0, "query": 4, "walk": 1}
    assert [data["prompts"][0]["vectors"][0][name] for name in ("layer", "head")] == [1, 0]
    numbers = json.loads(script_here("attention", *flags, *at, "--heads", "--json", cwd=tmp_path).stdout)
    assert numbers["walkthrough"]["tokens"][4] == "y"
    assert [(row["layer"], row["head"]) for row in numbers["heads"]] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert numbers["walkthrough"]["description"] == numbers["heads"][2]["description"]
    table = script_here("attention", *flags, "--heads", cwd=tmp_path).stdout
    assert table.count("\n1.0 ") == 2
    assert numbers["heads"][2]["description"].split()[0] in table


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "nothing to show: give --heads, --layer with --head, --output OUT.html or --png OUT.png"),
        (["--layer", "0"], "--layer and --head go together"),
        (["--query", "0", "--heads"], "--query 0 needs --layer and --head as well"),
        (["--output", "."], "--output=. is a folder; give a file's name"),
        (["--output", "lions.png"], "--output=lions.png must end in .html"),
        (["--png", "lions.html"], "--png=lions.html must end in .png"),
        (["--output", "a.html", "--checkpoint", "nowhere.ckpt"], "checkpoint=nowhere.ckpt does not exist"),
    ],
)
def test_attention_answers_wrong_flags_with_one_line_and_exit_code_2(tmp_path, flags, message):
    result = script_here("attention", "--prompt", "ab", *flags, cwd=tmp_path, ok=False)
    assert result.returncode == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
