"""The walkthrough: every number follows from those printed before it, and the parts add up to the model's."""

import io
import json
import math

import numpy as np
import pytest
import torch
from rich.cells import cell_len

from headwise.checkpoint import Checkpoint
from headwise.errors import UserError
from headwise.inspection.tables import console_of, format_number, print_walkthrough
from headwise.inspection.walkthrough import Walkthrough
from headwise.tokenizer import train_tokenizer
from tests.small import randomize, small_model, small_tokenizer

TEXT = "The lions were scared"
MODELS = {
    "qwen3": lambda size: small_model(vocab_size=size),
    "gpt2": lambda size: small_model("gpt2", vocab_size=size),
    "grouped": lambda size: small_model(vocab_size=size, n_kv_head=1),
    "relu": lambda size: small_model(vocab_size=size, attention="relu"),
    "alone": lambda size: small_model(vocab_size=size, mlp="none"),
}


def checkpoint_of(kind="qwen3", tokenizer=None):
    tokenizer = tokenizer or small_tokenizer()
    return Checkpoint("random", randomize(MODELS[kind](tokenizer.vocab_size)), tokenizer, {})


def walk_of(kind="qwen3", text=TEXT, layer=1, head=2, query=7, tokenizer=None):
    checkpoint = checkpoint_of(kind, tokenizer)
    return Walkthrough(checkpoint, checkpoint.tokenizer.encode(text), layer, head, query)


def printed(walk, width):
    out = io.StringIO()
    print_walkthrough(walk, "attends to lions", console_of(out, width))
    return out.getvalue()


@pytest.mark.parametrize("kind", MODELS)
def test_every_number_of_the_json_follows_from_those_before_it(kind):
    """By numpy in double precision, from q, k, v, W_O and the stream alone."""
    numbers = json.loads(json.dumps(walk_of(kind).as_json()))
    q, k, v, w_o = (np.array(numbers[name]) for name in ("q", "k", "v", "w_o"))
    query, width = numbers["query"], len(q)
    scores = k @ q
    scaled = scores / math.sqrt(width)
    projected = np.array(numbers["w_q"]) @ numbers["x"] + numbers["b_q"]
    assert np.allclose(numbers["projected"], projected, atol=1e-5)
    assert numbers["projected_then"] == ([] if kind == "gpt2" else ["normalized", "rotated by position"])
    if not numbers["projected_then"]:
        assert np.allclose(q, projected, atol=1e-5)
    assert np.allclose(numbers["scores"], scores, atol=1e-4)
    assert np.allclose(numbers["scaled_scores"], scaled, atol=1e-4)
    assert [x is None for x in numbers["masked_scores"]] == [j > query for j in range(len(TEXT))]
    seen = scaled[: query + 1]
    weights = np.maximum(seen, 0) / (query + 1) if kind == "relu" else np.exp(seen) / np.exp(seen).sum()
    assert np.allclose(numbers["pattern"][: query + 1], weights, atol=1e-5)
    assert numbers["pattern"][query + 1 :] == [0] * (len(TEXT) - query - 1)
    z = weights @ v[: query + 1]
    assert np.allclose(numbers["weighted_values"][3], weights[3] * v[3], atol=1e-5)
    assert np.allclose(numbers["z"], z, atol=1e-5)
    assert np.allclose(numbers["result"], z @ w_o, atol=1e-4)
    assert numbers["result"] == numbers["results"][numbers["head"]]
    after = np.array(numbers["before"]) + np.sum(numbers["results"], 0) + numbers["bias"]
    assert np.allclose(numbers["after"], after, atol=1e-4)


@pytest.mark.parametrize("kind", MODELS)
def test_the_weights_are_the_models_and_all_parts_add_up_to_its_logits(kind):
    for layer in (0, 1):
        for query in (0, 7, len(TEXT) - 1):
            walk = walk_of(kind, layer=layer, query=query)
            assert walk.pattern_error < 1e-6
            assert walk.logits_error < 1e-4


@torch.no_grad()
def test_the_query_is_the_normed_stream_projected_normed_and_turned():
    walk, model = walk_of(), checkpoint_of().model
    part = model.blocks[1].attention
    angles = model.position.angles(torch.tensor([7]))
    q = model.position.rotate(part.q_norm(walk.projected).view(1, 1, 1, -1), angles)
    assert torch.allclose(q.flatten(), walk.q, atol=1e-5)
    assert torch.allclose(walk.x, model.blocks[1].attention_norm(walk.before), atol=1e-6)


@torch.no_grad()
def test_the_streams_are_those_of_the_model():
    checkpoint = checkpoint_of()
    model, ids = checkpoint.model, checkpoint.tokenizer.encode(TEXT)
    kept = {}
    model.blocks[1].register_forward_pre_hook(lambda _, inputs: kept.update(before=inputs[0]))
    model.blocks[1].mlp_norm.register_forward_pre_hook(lambda _, inputs: kept.update(after=inputs[0]))
    logits = model(torch.tensor([ids]))
    walk = Walkthrough(checkpoint, ids, 1, 0, 7)
    assert torch.allclose(walk.before, kept["before"][0, 7], atol=1e-5)
    assert torch.allclose(walk.after, kept["after"][0, 7], atol=1e-5)
    assert torch.allclose(walk.logits, logits[0, 7], atol=1e-5)
    assert walk.next_token == ids[8]
    assert list(walk.likeliest()) == [checkpoint.tokenizer.label(i) for i in logits[0, 7].topk(5).indices.tolist()]


@torch.no_grad()
def test_what_a_head_raises_is_its_update_through_the_norm_as_it_was_and_the_unembedding():
    walk, checkpoint = walk_of(), checkpoint_of()
    model, end = checkpoint.model, []
    model.norm.register_forward_pre_hook(lambda _, inputs: end.append(inputs[0][0, 7]))
    model(torch.tensor([checkpoint.tokenizer.encode(TEXT)]))
    scale = (end[0].square().mean() + model.norm.eps).rsqrt()
    expected = (walk.result * scale * model.norm.weight) @ model.head.weight.T
    assert torch.allclose(walk.logit_changes, expected - expected.mean(), atol=1e-5)


@pytest.mark.parametrize("width", [80, 200])
def test_the_printed_numbers_follow_from_one_another_to_the_printed_digits(width):
    walk = walk_of()
    text = printed(walk, width)
    lines = text.splitlines()
    at = next(i for i, line in enumerate(lines) if line.split()[:2] == ["key", "k"])
    rows = [line.split() for line in lines[at + 1 : at + 1 + 11]]
    columns = [row[-4:] for row in rows]
    q_dot_k, scaled, masked, weights = zip(*columns, strict=True)
    assert [int(row[0]) for row in rows] == list(range(11))  # those seen, and the first three later ones
    for dot, small in zip(q_dot_k, scaled, strict=True):
        assert float(small) == pytest.approx(float(dot) / math.sqrt(6), abs=1e-4)
    assert masked[:8] == scaled[:8]
    assert masked[8:] == ("−∞",) * 3
    raised = np.exp([float(x) for x in masked[:8]])
    assert np.allclose([float(x) for x in weights[:8]], raised / raised.sum(), atol=1.1e-4)
    assert weights[8:] == ("0.0000",) * 3


@pytest.mark.parametrize("width", [0, 40, 80, 200])
@pytest.mark.parametrize("text", ["日本の lions 🦁 é", "[bold]x[/bold]\x07\x1b[31m", "a b\tc\nd"])
def test_any_tokens_fit_any_width_and_nothing_is_markup(width, text):
    tokenizer = train_tokenizer("bpe" if "🦁" in text else "char", text + TEXT, 300)
    length = len(tokenizer.encode(text))
    out = printed(walk_of(text=text, query=min(length - 1, 12), tokenizer=tokenizer), width)
    assert max(cell_len(line) for line in out.splitlines()) <= max(width, 80)  # narrower, the terminal wraps
    assert not [line for line in out.splitlines() if line != line.rstrip()]
    assert out.count("[") == out.count("]") >= 30  # no vector is cut
    assert "\x1b" not in out
    if "bold" in text:
        assert "  0 [" in out


def test_of_many_keys_the_heaviest_are_shown_and_the_rest_counted():
    walk = walk_of(text="so they left right away.", query=20)
    out = printed(walk, 80)
    assert "The 16 keys with the greatest weights; the other 5 count in every sum." in out
    for j in walk.pattern[:21].topk(16).indices.tolist():
        assert f"{j:>3} {walk.tokens[j]}" in out


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ({"layer": 2}, "--layer 2 must be from 0 to 1: the model has 2"),
        ({"head": -1}, "--head -1 must be from 0 to 2: a layer has 3"),
        ({"query": 21}, "--query 21 must be from 0 to 20: the text has 21"),
    ],
)
def test_places_that_are_not_there_are_refused(place, message):
    with pytest.raises(UserError, match=message):
        walk_of(**place)


def test_numbers_have_no_minus_before_a_zero_and_stay_narrow():
    assert [format_number(x) for x in (-0.00001, 12.34567, -math.inf, -123456.7)] == [
        "0.0000",
        "12.3457",
        "−∞",
        "-1.235e+05",
    ]
