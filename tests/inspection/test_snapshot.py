"""The attention of a finished model on a text: page contents, head scores, show."""

import re
import shutil

import numpy as np
import pytest
import torch

from headwise.checkpoint import Checkpoint
from headwise.errors import UserError
from headwise.inspection.head_scores import induction, previous_token
from headwise.inspection.hooks import capture, run_and_capture
from headwise.inspection.inputs import ordinary_tokens, repeats_inputs
from headwise.inspection.page.page import compand
from headwise.inspection.recorder import head_metrics, heads_columns
from headwise.inspection.snapshot import head_scores, show, text_view, tokenize, view_grid
from tests.browser.views import data_of
from tests.small import randomize, small_model, small_tokenizer, train

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


def test_text_view_has_the_maps_vectors_and_scores_of_the_model(checkpoint):
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
    assert list(prompt.scores) == head_metrics()
    assert prompt.scores["previous_token"][0, 1, 2] == pytest.approx(float(previous_token(maps[1].pattern[0, 2])))
    (model_input,) = repeats_inputs(ordinary_tokens(checkpoint.tokenizer), model.config.block_size)
    expected = induction(run_and_capture(model, model_input.ids)[0][1].pattern, model_input.ids)[:, 2].mean()
    assert prompt.scores["induction"][0, 1, 2] == pytest.approx(float(expected))
    assert view_grid(view).size[0] > 500


def test_head_scores_have_the_keys_of_heads_csv(checkpoint):
    rows = head_scores(checkpoint, TEXT)
    assert [(row["layer"], row["head"]) for row in rows] == [(layer, head) for layer in range(2) for head in range(3)]
    assert [name for name in rows[0] if name in heads_columns()] == heads_columns()
    assert set(rows[0]) - set(heads_columns()) == {"own_token", "description"}
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
def test_tokenize_refuses_a_text_that_is_too_short_or_too_long(checkpoint, text, message):
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
