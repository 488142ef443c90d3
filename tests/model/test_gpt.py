"""What must hold for every model; tests/test_huggingface.py holds the presets to GPT-2 and Qwen3 themselves."""

import math
from unittest import mock

import pytest
import torch
from torch.nn import functional as F

from headwise.config import GPTConfig
from headwise.errors import UserError
from headwise.model.attention import ATTENTIONS
from headwise.model.gpt import GPT, IGNORE, eval_mode, next_token_loss
from headwise.model.kv_cache import KVCache
from headwise.model.layers import MLPS
from headwise.model.position import POSITIONS
from tests.presets import PRESETS
from tests.small import randomize

V, L, T = 53, 3, 13


def close(a, b, atol=1e-5):
    return torch.allclose(a, b, atol=atol)


def grads(model, ids):
    logits = model(ids)
    next_token_loss(logits[:, :-1], ids[:, 1:]).backward()
    return logits.detach()


KINDS = [
    *(preset for preset in PRESETS.values()),
    *(PRESETS["gpt2"] | {"position": position} for position in POSITIONS),
    *(PRESETS["gpt2"] | {"attention": attention} for attention in ATTENTIONS),
    *(PRESETS["qwen3"] | {"mlp": mlp, "n_kv_head": 1} for mlp in MLPS),
]


def model_of(kinds):
    return randomize(GPT(GPTConfig(vocab_size=V, block_size=T, n_layer=L, n_embd=30, n_head=3, **kinds)))


def several(kinds):
    return pytest.mark.parametrize("kinds", kinds, ids=lambda kinds: "-".join(str(v) for v in list(kinds.values())[:5]))


@several(KINDS)
@pytest.mark.parametrize("precision", ["float32", "float64", "bfloat16", "autocast"])
@pytest.mark.parametrize("chunks", [[T], [5, 1, 1, T - 7], None])
def test_logits_do_not_change_when_a_later_token_does(kinds, precision, chunks):
    """For every kind, in every precision, without a cache (None) and with one filled in one go or in chunks."""
    model = model_of(kinds)
    if precision != "autocast":
        model.to(getattr(torch, precision))

    def logits(ids):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
            if chunks is None:
                return model(ids)
            cache = KVCache(model.config, len(ids))
            return torch.cat([model(part, cache=cache) for part in ids.split(chunks, dim=1)], dim=1)

    ids = torch.randint(V, (2, T))
    changed = ids.clone()
    changed[:, 8] = (changed[:, 8] + 1) % V
    before, after = logits(ids), logits(changed)
    assert torch.equal(before[:, :8], after[:, :8])
    assert not close(before[:, 8:], after[:, 8:], 1e-2)


@several(KINDS)
def test_padded_sequence_has_the_logits_it_has_alone(kinds):
    model = model_of(kinds)
    ids, padding = torch.randint(V, (3, T)), torch.tensor([4, 0, T - 1])
    together = model(ids, padding=padding)
    for row, pad, logits in zip(ids, padding, together, strict=True):
        assert close(logits[pad:], model(row[None, pad:])[0])


@pytest.mark.parametrize("preset", PRESETS)
def test_fused_and_reference_attention_give_the_same_model_and_gradients(preset):
    kinds = PRESETS[preset] | {"n_kv_head": 1}
    fast, plain = (GPT(GPTConfig(vocab_size=V, block_size=T, n_embd=30, n_head=3, **kinds)) for _ in range(2))
    randomize(fast)
    randomize(plain)
    for block in plain.blocks:
        block.attention.attend = block.attention.reference
    ids = torch.randint(V, (2, T))
    assert close(grads(fast, ids), grads(plain, ids))
    for (name, a), b in zip(fast.named_parameters(), plain.parameters(), strict=True):
        assert close(a.grad, b.grad), name


@pytest.mark.parametrize("body", ["fast", "reference"])
def test_dropout_is_applied_to_weights_updates_and_embeddings_in_training_alone(body):
    """Every place of GPT-2's, by counting the calls and what is dropped there."""
    model = model_of(PRESETS["gpt2"] | {"dropout": 0.5})
    for block in model.blocks:
        block.attention.attend = block.attention.reference if body == "reference" else block.attention.attend
    ids = torch.randint(V, (2, T))
    assert torch.equal(model(ids), model(ids))  # not in eval mode
    model.train()
    updates = {}
    parts = {"embedding": model.dropout, "attention": model.blocks[1].attention, "mlp": model.blocks[1].dropout}
    for name, part in parts.items():
        part.register_forward_hook(lambda module, inputs, output, name=name: updates.update({name: output}))
    with mock.patch.object(F, "scaled_dot_product_attention", wraps=F.scaled_dot_product_attention) as kernel:
        model(ids)
    for name, output in updates.items():
        assert 0.4 < (output == 0).float().mean() < 0.6, name
    dropped = [call.kwargs["dropout_p"] for call in kernel.call_args_list]
    assert dropped == ([0.5] * L if body == "fast" else [])


@several(KINDS)
def test_forward_is_unembed_of_hidden(kinds):
    model, ids = model_of(kinds), torch.randint(V, (2, T))
    x = model.hidden(ids)
    assert x.shape == (2, T, 30)
    assert torch.equal(model(ids), model.unembed(x))
    assert torch.equal(model.last_logits(ids), model.unembed(x[:, -1]))
    assert close(model(ids), F.linear(model.norm(x), model.head.weight))


def test_zero_output_init_starts_at_the_loss_of_knowing_nothing():
    model = GPT(GPTConfig(vocab_size=V, block_size=T, n_embd=30, n_head=3, **PRESETS["qwen3"]))
    ids = torch.randint(V, (2, T))
    assert math.isclose(next_token_loss(model(ids), ids).item(), math.log(V), rel_tol=1e-6)


def test_scaled_normal_init_shrinks_what_writes_to_the_stream_and_a_tied_head_is_the_embedding():
    model = GPT(GPTConfig(vocab_size=997, block_size=T, n_embd=128, n_layer=8, **PRESETS["gpt2"]))
    assert model.head.weight is model.embedding.weight
    assert math.isclose(model.embedding.weight.std().item(), 0.02, rel_tol=0.05)
    assert math.isclose(model.blocks[3].mlp.down.weight.std().item(), 0.02 / math.sqrt(16), rel_tol=0.05)
    assert not model.blocks[3].attention.qkv.bias.any()


def test_next_token_loss_does_not_count_ignored_targets():
    logits, targets = torch.randn(2, 5, V), torch.randint(V, (2, 5))
    ignored = targets.clone()
    ignored[1, 2:] = IGNORE
    kept = torch.cat((logits[0], logits[1, :2])), torch.cat((targets[0], targets[1, :2]))
    assert close(next_token_loss(logits, ignored), torch.nn.functional.cross_entropy(*kept))


def test_eval_mode_restores_the_mode_of_every_part():
    model = GPT(GPTConfig(vocab_size=V))
    model.train()
    model.blocks[1].eval()
    before = [module.training for module in model.modules()]
    with eval_mode(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == before


def test_forward_refuses_a_sequence_longer_than_block_size_with_both_numbers():
    with pytest.raises(ValueError, match="14 tokens is longer than block_size=13"):
        GPT(GPTConfig(vocab_size=V, block_size=13))(torch.zeros(1, 14, dtype=torch.long))


def test_forward_refuses_a_batch_of_another_size_than_the_caches():
    model = GPT(GPTConfig(vocab_size=V, block_size=13))
    with pytest.raises(ValueError, match="a batch of 1 sequences does not fit the cache's batch_size=2"):
        model(torch.zeros(1, 5, dtype=torch.long), cache=KVCache(model.config, batch_size=2))


def test_forward_refuses_a_sequence_longer_than_its_cache_with_both_numbers():
    model = GPT(GPTConfig(vocab_size=V, block_size=13))
    cache = KVCache(model.config, batch_size=1, size=7)
    model(torch.zeros(1, 5, dtype=torch.long), cache=cache)
    with pytest.raises(ValueError, match="8 tokens is longer than the cache's size=7"):
        model(torch.zeros(1, 3, dtype=torch.long), cache=cache)


@pytest.mark.parametrize("preset", PRESETS)
def test_from_weights_gives_the_model_that_they_came_from(preset):
    model = model_of(PRESETS[preset])
    state = torch.get_rng_state()
    twin = GPT.from_weights(model.config, model.state_dict())
    assert torch.equal(state, torch.get_rng_state())
    assert twin.embedding.weight.data_ptr() != model.embedding.weight.data_ptr()
    assert (twin.head.weight is twin.embedding.weight) == model.config.tie_embeddings
    ids = torch.randint(V, (2, T))
    assert torch.equal(twin.eval()(ids), model(ids))


@pytest.mark.parametrize("key", ["attention", "position", "norm", "mlp", "init"])
def test_gpt_refuses_an_unknown_kind_with_the_known_ones(key):
    with pytest.raises(UserError, match=f"model.{key}=nonsense is none of "):
        GPT(GPTConfig(vocab_size=V, **{key: "nonsense"}))
