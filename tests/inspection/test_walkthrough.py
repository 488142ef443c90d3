"""The walkthrough: every number follows from those before it, and all parts sum to the logits of the model."""

import json
import math

import numpy as np
import pytest
import torch

from headwise.checkpoint import Checkpoint
from headwise.errors import UserError
from headwise.inspection.walkthrough import Walkthrough
from tests.small import randomize, small_model, small_tokenizer

TEXT = "The lions were scared"
MODELS = {
    "qwen3": lambda size: small_model(vocab_size=size),
    "gpt2": lambda size: small_model("gpt2", vocab_size=size),
    "grouped": lambda size: small_model(vocab_size=size, n_kv_head=1),
    "relu": lambda size: small_model(vocab_size=size, attention="relu"),
    "alibi": lambda size: small_model("gpt2", vocab_size=size, position="alibi"),
    "alone": lambda size: small_model(vocab_size=size, mlp="none"),
}


def checkpoint_of(kind="qwen3", tokenizer=None):
    tokenizer = tokenizer or small_tokenizer()
    return Checkpoint("random", randomize(MODELS[kind](tokenizer.vocab_size)), tokenizer, {})


def walkthrough_of(kind="qwen3", text=TEXT, layer=1, head=2, query=7, tokenizer=None):
    checkpoint = checkpoint_of(kind, tokenizer)
    return Walkthrough(checkpoint, checkpoint.tokenizer.encode(text), layer, head, query)


@pytest.mark.parametrize("kind", MODELS)
def test_walkthrough_numbers_follow_from_one_another(kind):
    """By numpy in double precision, from q, k, v, W_O and the stream alone."""
    numbers = json.loads(json.dumps(walkthrough_of(kind).as_json()))
    q, k, v, w_o = (np.array(numbers[name]) for name in ("q", "k", "v", "w_o"))
    query, width = numbers["query"], len(q)
    scores = k @ q
    scaled = scores / math.sqrt(width)
    projected = np.array(numbers["w_q"]) @ numbers["x"] + numbers["b_q"]
    assert np.allclose(numbers["projected"], projected, atol=1e-5)
    assert numbers["projected_then"] == ([] if kind in ("gpt2", "alibi") else ["normalized", "rotated by position"])
    if not numbers["projected_then"]:
        assert np.allclose(q, projected, atol=1e-5)
    assert np.allclose(numbers["scores"], scores, atol=1e-4)
    assert np.allclose(numbers["scaled_scores"], scaled, atol=1e-4)
    assert [x is None for x in numbers["masked_scores"]] == [j > query for j in range(len(TEXT))]
    visible = scaled[: query + 1]
    if kind == "alibi":  # head 2 of 3 has the slope 1/4
        visible = visible - 2**-2 * np.arange(query, -1, -1)
        assert np.allclose(numbers["masked_scores"][: query + 1], visible, atol=1e-4)
    weights = np.maximum(visible, 0) / (query + 1) if kind == "relu" else np.exp(visible) / np.exp(visible).sum()
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
def test_walkthrough_weights_are_those_of_the_model_and_all_parts_sum_to_its_logits(kind):
    for layer in (0, 1):
        for query in (0, 7, len(TEXT) - 1):
            walkthrough = walkthrough_of(kind, layer=layer, query=query)
            assert walkthrough.pattern_error < 1e-6
            assert walkthrough.logits_error < 1e-4


@torch.no_grad()
def test_walkthrough_query_is_the_normalized_residual_stream_projected_and_rotated():
    walkthrough, model = walkthrough_of(), checkpoint_of().model
    part = model.blocks[1].attention
    angles = model.position.angles(torch.tensor([7]))
    q = model.position.rotate(part.q_norm(walkthrough.projected).view(1, 1, 1, -1), angles)
    assert torch.allclose(q.flatten(), walkthrough.q, atol=1e-5)
    assert torch.allclose(walkthrough.x, model.blocks[1].attention_norm(walkthrough.before), atol=1e-6)


@torch.no_grad()
def test_walkthrough_residual_streams_are_those_of_the_model():
    checkpoint = checkpoint_of()
    model, ids = checkpoint.model, checkpoint.tokenizer.encode(TEXT)
    streams = {}
    model.blocks[1].register_forward_pre_hook(lambda _, inputs: streams.update(before=inputs[0]))
    model.blocks[1].mlp_norm.register_forward_pre_hook(lambda _, inputs: streams.update(after=inputs[0]))
    logits = model(torch.tensor([ids]))
    walkthrough = Walkthrough(checkpoint, ids, 1, 0, 7)
    assert torch.allclose(walkthrough.before, streams["before"][0, 7], atol=1e-5)
    assert torch.allclose(walkthrough.after, streams["after"][0, 7], atol=1e-5)
    assert torch.allclose(walkthrough.logits, logits[0, 7], atol=1e-5)
    assert walkthrough.next_token == ids[8]
    assert list(walkthrough.likeliest()) == [
        checkpoint.tokenizer.label(i) for i in logits[0, 7].topk(5).indices.tolist()
    ]


@torch.no_grad()
def test_walkthrough_logit_changes_are_the_result_through_the_frozen_norm_and_unembedding():
    walkthrough, checkpoint = walkthrough_of(), checkpoint_of()
    model, end = checkpoint.model, []
    model.norm.register_forward_pre_hook(lambda _, inputs: end.append(inputs[0][0, 7]))
    model(torch.tensor([checkpoint.tokenizer.encode(TEXT)]))
    scale = (end[0].square().mean() + model.norm.eps).rsqrt()
    expected = (walkthrough.result * scale * model.norm.weight) @ model.head.weight.T
    assert torch.allclose(walkthrough.logit_changes, expected - expected.mean(), atol=1e-5)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ({"layer": 2}, "--layer 2 must be from 0 to 1: the model has 2"),
        ({"head": -1}, "--head -1 must be from 0 to 2: a layer has 3"),
        ({"query": 21}, "--query 21 must be from 0 to 20: the text has 21"),
    ],
)
def test_walkthrough_refuses_indices_out_of_range(place, message):
    with pytest.raises(UserError, match=message):
        walkthrough_of(**place)
