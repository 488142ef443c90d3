"""Capture and edit_heads: exact maps from outside the model, which does not change."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, Qwen3Config, Qwen3ForCausalLM

from headwise.huggingface import LAYOUTS, config_to_hf, hf_weights
from headwise.inspection.hooks import capture, edit_heads
from headwise.model.attention import ATTENTIONS, causal_mask, merge_heads
from headwise.model.kv_cache import KVCache
from tests.presets import PRESETS
from tests.small import randomize, small_model

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2], [2, 7, 1, 8, 2, 8, 1]])


@pytest.mark.parametrize("preset", PRESETS)
def test_capture_leaves_the_logits_unchanged(preset):
    model = small_model(preset)
    plain = model(IDS)
    with capture(model) as maps:
        seen = model(IDS)
    assert torch.allclose(plain, seen, atol=1e-6)
    assert sorted(maps) == [0, 1]
    assert maps[1].pattern.shape == (2, 3, 7, 7)
    assert maps[1].z.shape == (2, 3, 7, 6)


@pytest.mark.parametrize("kind", ["softmax", "relu"])
@pytest.mark.parametrize("position", ["rotary", "alibi"])
def test_captured_scores_pattern_z_and_result_follow_from_one_another(kind, position):
    model = small_model(attention=kind, n_kv_head=1, position=position)
    bias = model.position.bias(torch.arange(7), torch.arange(7)) if position == "alibi" else torch.zeros(3, 7, 7)
    with capture(model) as maps:
        model(IDS)
    for layer, seen in maps.items():
        assert torch.allclose(seen.scores, seen.q @ seen.k.mT, atol=1e-6)
        assert torch.equal(seen.scaled_scores, seen.scores / 6**0.5)
        assert torch.allclose(seen.masked_scores.tril(), (seen.scaled_scores + bias).tril())
        assert torch.equal(seen.masked_scores.isinf(), ~causal_mask(7, 7).expand(2, 3, 7, 7))
        assert torch.allclose(ATTENTIONS[kind].normalize(seen.masked_scores), seen.pattern, atol=1e-6)
        assert torch.allclose(seen.pattern @ seen.v, seen.z, atol=1e-6)
        assert torch.allclose(seen.result.sum(1), model.blocks[layer].attention.out(merge_heads(seen.z)), atol=1e-6)


def test_edit_heads_changes_z_before_the_output_projection_and_lets_gradients_through():
    model = small_model()
    removed = torch.zeros(2, 3, 7, 6, requires_grad=True)
    with edit_heads(model, lambda layer, z: z * removed if layer == 1 else z):
        edited = model(IDS)
    block = model.blocks[1]
    hook = block.attention.register_forward_hook(lambda _, inputs, output: torch.zeros_like(output))
    assert torch.allclose(edited, model(IDS), atol=1e-6)
    hook.remove()
    edited.sum().backward()
    assert removed.grad.any()


def test_captured_result_does_not_change_with_the_weights():
    model = small_model()
    with capture(model) as maps:
        model(IDS)
    before = maps[1].result
    with torch.no_grad():
        model.blocks[1].attention.out.weight.mul_(2)
    assert torch.equal(maps[1].result, before)


def test_capture_of_cached_and_padded_passes_gives_the_maps_of_the_whole_text():
    model = small_model()
    with capture(model) as expected:
        model(IDS)
    cache = KVCache(model.config, batch_size=2)
    model(IDS[:, :4], cache=cache)
    with capture(model) as maps:
        model(IDS[:, 4:], cache=cache)
    assert torch.allclose(maps[1].pattern, expected[1].pattern[:, :, 4:], atol=1e-6)
    padded = torch.cat((torch.zeros(2, 3, dtype=torch.long), IDS), dim=1)
    with capture(model) as maps:
        model(padded, padding=torch.tensor([3, 3]))
    assert torch.allclose(maps[1].pattern[..., 3:, 3:], expected[1].pattern, atol=1e-6)
    assert not maps[1].pattern[..., :3].any()


@pytest.mark.parametrize(("preset", "kind"), [("gpt2", "gpt2"), ("qwen3", "qwen3")])
def test_captured_patterns_equal_those_of_transformers(preset, kind):
    groups = {"n_kv_head": 1, "head_dim": 8} if preset == "qwen3" else {}
    ours, layout = randomize(small_model(preset, **groups)), LAYOUTS[kind]
    make = {"gpt2": (GPT2Config, GPT2LMHeadModel), "qwen3": (Qwen3Config, Qwen3ForCausalLM)}[kind]
    theirs = make[1](make[0](**config_to_hf(ours.config, layout), attn_implementation="eager")).eval()
    theirs.load_state_dict(hf_weights(ours, layout), strict=False)
    with capture(ours) as maps:
        ours(IDS)
    for layer, expected in enumerate(theirs(IDS, output_attentions=True).attentions):
        assert torch.allclose(maps[layer].pattern, expected, atol=1e-5)


def test_capture_leaves_the_model_unchanged():
    model = small_model()  # without dropout, a forward pass itself draws nothing
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


def test_capture_restores_the_model_after_an_error():
    model = small_model()
    functions = [block.attention.attend for block in model.blocks]
    with pytest.raises(RuntimeError), capture(model):
        raise RuntimeError
    assert [block.attention.attend for block in model.blocks] == functions


@pytest.mark.parametrize("precision", ["autocast", torch.bfloat16, torch.float64])
def test_capture_gives_float32_under_autocast_and_in_other_precisions(precision):
    model = small_model()
    if precision != "autocast":
        model.to(precision)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "autocast"):
        plain = model(IDS)
        with capture(model) as maps:
            seen = model(IDS)
    assert seen.dtype == plain.dtype
    assert torch.allclose(seen, plain, atol=0.05)
    values = (maps[0].q, maps[0].k, maps[0].v, maps[0].scores, maps[0].pattern, maps[0].z, maps[0].result)
    assert {value.dtype for value in values} == {torch.float32}
    assert torch.allclose(maps[0].pattern.sum(-1), torch.ones(2, 3, 7), atol=1e-6)


def test_capture_works_on_a_compiled_model_without_compiling_it_again():
    model, compiled = small_model(), []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    with capture(model) as expected:
        model(IDS)
    model.compile(backend=backend)
    model(IDS)
    before = len(compiled)
    with capture(model) as maps:
        model(IDS)
    model(IDS)
    assert len(compiled) == before > 0
    for layer in (0, 1):
        assert torch.equal(maps[layer].pattern, expected[layer].pattern)


def test_captured_maps_do_not_change_when_the_cache_is_used_again():
    model = small_model()
    cache = KVCache(model.config, batch_size=2)
    with torch.no_grad(), capture(model) as maps:
        model(IDS, cache=cache)
    before = maps[0].scores
    cache.length = 0
    with torch.no_grad():
        model(IDS + 1, cache=cache)
    assert torch.equal(maps[0].scores, before)
