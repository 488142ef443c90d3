"""Capture: true maps, from outside, without a trace."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from headwise.inspection.capture import capture
from tests.presets import PRESETS
from tests.small import small_model

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2], [2, 7, 1, 8, 2, 8, 1]])


@pytest.mark.parametrize("preset", PRESETS)
def test_logits_are_the_same_with_and_without_capture(preset):
    model = small_model(preset)
    plain = model(IDS)
    with capture(model) as maps:
        seen = model(IDS)
    assert torch.allclose(plain, seen, atol=1e-6)
    assert sorted(maps) == [0, 1]
    assert maps[1].pattern.shape == (2, 3, 7, 7)
    assert maps[1].z.shape == (2, 3, 7, 6)


def test_maps_are_those_of_transformers():
    theirs = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=23, n_positions=29, n_embd=18, n_layer=2, n_head=3, attn_implementation="eager",
            bos_token_id=0, eos_token_id=0,
        )
    ).eval()  # fmt: skip
    ours = small_model("classic")
    hers = theirs.transformer
    for mine, block in zip(ours.blocks, hers.h, strict=True):
        torch.nn.init.normal_(mine.attention.qkv.weight)
        block.ln_1.load_state_dict(mine.attention_norm.state_dict())
        block.ln_2.load_state_dict(mine.mlp_norm.state_dict())
        pairs = [
            (mine.attention.qkv, block.attn.c_attn),
            (mine.attention.out, block.attn.c_proj),
            (mine.mlp.up, block.mlp.c_fc),
            (mine.mlp.down, block.mlp.c_proj),
        ]
        for linear, conv in pairs:
            conv.weight.data, conv.bias.data = linear.weight.data.T.clone(), linear.bias.data.clone()
    hers.wte.load_state_dict(ours.embedding.state_dict())
    hers.wpe.load_state_dict(ours.position.table.state_dict())
    with capture(ours) as maps:
        ours(IDS)
    for layer, expected in enumerate(theirs(IDS, output_attentions=True).attentions):
        assert torch.allclose(maps[layer].pattern, expected, atol=1e-5)


def test_nothing_changes_and_nothing_stays():
    model = small_model()
    model.train()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    functions = [block.attention.attend for block in model.blocks]
    torch.manual_seed(3)
    state = torch.get_rng_state()
    with capture(model) as maps:
        model(IDS)
    assert torch.equal(state, torch.get_rng_state())
    assert model.training
    assert [block.attention.attend for block in model.blocks] == functions
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    before = maps[0]
    model(IDS + 1)
    assert maps[0] is before


def test_the_model_is_given_back_after_an_error():
    model = small_model()
    functions = [block.attention.attend for block in model.blocks]
    with pytest.raises(RuntimeError), capture(model):
        raise RuntimeError
    assert [block.attention.attend for block in model.blocks] == functions


def test_maps_are_float32_under_autocast():
    model = small_model()
    with torch.autocast("cpu", dtype=torch.bfloat16), capture(model) as maps:
        model(IDS)
    assert maps[0].pattern.dtype == torch.float32
    assert torch.allclose(maps[0].pattern.sum(-1), torch.ones(2, 3, 7), atol=1e-6)


def test_a_model_compiled_in_place_is_captured():
    model = small_model()
    with capture(model) as expected:
        model(IDS)
    model.compile(backend="eager")
    model(IDS)
    with capture(model) as maps:
        model(IDS)
    for layer in (0, 1):
        assert torch.equal(maps[layer].pattern, expected[layer].pattern)
