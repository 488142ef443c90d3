"""One look at a finished model."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from headwise.checkpoint import Checkpoint
from headwise.errors import UserError
from headwise.inspection.head_scores import induction, previous_token
from headwise.inspection.hooks import capture, run_and_capture
from headwise.inspection.inputs import ordinary_tokens, repeats_input
from headwise.inspection.page.page import compand
from headwise.inspection.recorder import HEAD_METRICS, HEADS_COLUMNS
from headwise.inspection.snapshot import head_scores, show, text_view, tokenize, view_grid
from tests.browser.views import data_of
from tests.small import randomize, script, script_here, small_model, small_tokenizer, train

TEXT = "The lions left"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run of one step."""
    cwd = tmp_path_factory.mktemp("trained")
    train(cwd, "run", "trainer.max_steps=1")
    return cwd / "run"


@pytest.fixture
def checkpoint(tmp_path):
    tokenizer = small_tokenizer()
    model = randomize(small_model(vocab_size=tokenizer.vocab_size, n_kv_head=1))
    return Checkpoint(tmp_path / "best.ckpt", model, tokenizer, {"step": 700})


def test_the_view_holds_the_models_own_maps_vectors_and_scores(checkpoint):
    view = text_view(checkpoint, [tokenize(checkpoint, TEXT)], start={"layer": 1})
    (prompt,) = view.prompts
    model, ids = checkpoint.model, torch.tensor([checkpoint.tokenizer.encode(TEXT)])
    with torch.no_grad(), capture(model) as maps:
        model(ids)
    assert (view.steps, view.n_kv_head, view.normalize, view.start) == ([700], 1, "softmax", {"layer": 1})
    assert prompt.labels == [checkpoint.tokenizer.label(i) for i in ids[0].tolist()]
    assert np.array_equal(prompt.patterns[0, 1, 2], compand(maps[1].pattern[0, 2].numpy()))
    assert np.array_equal(prompt.maps[1].q[0, 2], maps[1].q[0, 2])
    assert np.array_equal(prompt.maps[1].k[0, 0], maps[1].k[0, 0])
    assert list(prompt.scores) == HEAD_METRICS
    assert prompt.scores["previous_token"][0, 1, 2] == pytest.approx(float(previous_token(maps[1].pattern[0, 2])))
    (model_input,) = repeats_input(ordinary_tokens(checkpoint.tokenizer), model.config.block_size)
    expected = induction(run_and_capture(model, model_input.ids)[0][1].pattern, model_input.ids)[:, 2].mean()
    assert prompt.scores["induction"][0, 1, 2] == pytest.approx(float(expected))
    assert view_grid(view).size[0] > 500


def test_head_scores_have_the_keys_of_heads_csv(checkpoint):
    rows = head_scores(checkpoint, TEXT)
    assert [(row["layer"], row["head"]) for row in rows] == [(layer, head) for layer in range(2) for head in range(3)]
    assert [name for name in rows[0] if name in HEADS_COLUMNS] == HEADS_COLUMNS
    assert set(rows[0]) - set(HEADS_COLUMNS) == {"own_token", "description"}
    model, ids = checkpoint.model, torch.tensor([checkpoint.tokenizer.encode(TEXT)])
    with torch.no_grad(), capture(model) as maps:
        model(ids)
    for row in rows:
        expected = previous_token(maps[row["layer"]].pattern[0, row["head"]])
        assert row["previous_token"] == pytest.approx(float(expected))


@pytest.mark.parametrize(
    ("text", "message"),
    [("T", "has fewer than two tokens"), ("lions " * 5, "has 30 tokens; give at most block_size=29")],
)
def test_a_text_that_cannot_be_shown_is_refused(checkpoint, text, message):
    with pytest.raises(UserError, match=message):
        tokenize(checkpoint, text)


def test_show_gives_the_page_of_a_checkpoint_to_a_notebook_and_its_contents_elsewhere(checkpoint):
    page = show(TEXT, checkpoint)
    frame = page._repr_html_()
    assert frame.startswith('<iframe srcdoc="&lt;!doctype html&gt;')
    assert 'sandbox="allow-scripts"' in frame
    assert re.fullmatch(
        r"<attention page: 2 layers of 3 heads, 14 tokens, 0\.. MB; .*\.save\('view.html'\)>", repr(page)
    )
    assert data_of(page)["prompts"][0]["labels"] == [
        checkpoint.tokenizer.label(i) for i in checkpoint.tokenizer.encode(TEXT)
    ]


def test_show_opens_the_newest_run_or_a_path(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="there is no checkpoint under runs/ yet"):
        show(TEXT)
    shutil.copytree(trained, tmp_path / "runs/quickstart/now")
    page = show(TEXT)
    assert data_of(page)["title"] == "runs/quickstart/now/checkpoints/best.ckpt"
    assert data_of(page)["prompts"] == data_of(show(TEXT, str(trained)))["prompts"]
    page.save(tmp_path / "lions.html")
    assert (tmp_path / "lions.html").read_text(encoding="utf-8") == page


def test_the_script_writes_the_page_and_the_sheet_of_a_trained_run(trained, tmp_path):
    wanted = ["--checkpoint", trained, "--prompt", "The yield statement", "--output", "a.html", "--png", "a.png"]
    result = script("attention", *wanted, cwd=tmp_path)
    assert result.stdout == "a.html\na.png\n"
    assert (tmp_path / "a.html").read_text().startswith("<!doctype html>")
    assert Image.open(tmp_path / "a.png").width > 500


def test_the_script_walks_through_a_head_and_opens_the_page_there(trained, tmp_path):
    at = ["--layer", 1, "--head", 0, "--query", 4]
    flags = ["--checkpoint", trained, "--prompt", "The yield statement"]
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
def test_wrong_flags_are_one_line(tmp_path, flags, message):
    result = script_here("attention", "--prompt", "ab", *flags, cwd=tmp_path, ok=False)
    assert result.returncode == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
