"""What must hold for every model; tests/test_hf.py holds the presets to GPT-2 and Qwen3 themselves."""

import math

import pytest
import torch

from headwise.errors import UserError
from headwise.model.cache import KVCache
from headwise.model.config import GPTConfig
from headwise.model.gpt import GPT, IGNORE, eval_mode, next_token_loss
from tests.presets import PRESETS

V, L, T = 53, 3, 13


def close(a, b, atol=1e-5):
    return torch.allclose(a, b, atol=atol)


def randomize(model):
    """Values that a mistake cannot hide behind: no zeros, no ones, nothing symmetric."""
    torch.manual_seed(1)
    for p in model.parameters():
        p.data = torch.randn_like(p) * 0.2 + 0.05


def grads(model, ids):
    logits = model(ids)
    next_token_loss(logits[:, :-1], ids[:, 1:]).backward()
    return logits.detach()


KINDS = [
    *(preset for preset in PRESETS.values()),
    *(PRESETS["classic"] | {"position": position} for position in ("sinusoidal", "rotary", "none")),
    PRESETS["classic"] | {"attention": "relu"},
    PRESETS["modern"] | {"mlp": "none", "position": "learned"},
    PRESETS["modern"] | {"mlp": "relu2", "n_kv_head": 1},
]


def model_of(kinds):
    model = GPT(GPTConfig(vocab_size=V, block_size=T, n_layer=L, n_embd=30, n_head=3, **kinds)).eval()
    randomize(model)
    return model


def several(kinds):
    return pytest.mark.parametrize("kinds", kinds, ids=lambda kinds: "-".join(str(v) for v in list(kinds.values())[:5]))


@several(KINDS)
@pytest.mark.parametrize("precision", ["float32", "float64", "bfloat16", "autocast"])
@pytest.mark.parametrize("chunks", [[T], [5, 1, 1, T - 7], None])
def test_no_token_changes_when_a_later_one_does(kinds, precision, chunks):
    """For every kind, in every precision, without a cache (None) and with one filled in one go or in chunks."""
    model = model_of(kinds)
    if precision != "autocast":
        model.to(getattr(torch, precision))

    def logits(ids):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
            if chunks is None:
                return model(ids)
            cache = KVCache(model.config, len(ids), dtype=model.embedding.weight.dtype)
            return torch.cat([model(part, cache=cache) for part in ids.split(chunks, dim=1)], dim=1)

    ids = torch.randint(V, (2, T))
    changed = ids.clone()
    changed[:, 8] = (changed[:, 8] + 1) % V
    before, after = logits(ids), logits(changed)
    assert torch.equal(before[:, :8], after[:, :8])
    assert not close(before[:, 8:], after[:, 8:], 1e-2)


@several(KINDS)
def test_a_sequence_with_padding_before_it_gives_the_logits_it_gives_alone(kinds):
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


def test_zero_output_init_starts_at_the_loss_of_knowing_nothing():
    model = GPT(GPTConfig(vocab_size=V, block_size=T, n_embd=30, n_head=3, **PRESETS["modern"]))
    ids = torch.randint(V, (2, T))
    assert math.isclose(next_token_loss(model(ids), ids).item(), math.log(V), rel_tol=1e-6)


def test_gpt2_init_shrinks_what_writes_to_the_stream_and_a_tied_head_is_the_embedding():
    model = GPT(GPTConfig(vocab_size=997, block_size=T, n_embd=128, n_layer=8, **PRESETS["classic"]))
    assert model.head.weight is model.embedding.weight
    assert math.isclose(model.embedding.weight.std().item(), 0.02, rel_tol=0.05)
    assert math.isclose(model.blocks[3].mlp.down.weight.std().item(), 0.02 / math.sqrt(16), rel_tol=0.05)
    assert not model.blocks[3].attention.qkv.bias.any()


def test_targets_to_ignore_do_not_count():
    logits, targets = torch.randn(2, 5, V), torch.randint(V, (2, 5))
    ignored = targets.clone()
    ignored[1, 2:] = IGNORE
    kept = torch.cat((logits[0], logits[1, :2])), torch.cat((targets[0], targets[1, :2]))
    assert close(next_token_loss(logits, ignored), torch.nn.functional.cross_entropy(*kept))


def test_eval_mode_gives_every_part_its_own_mode_back():
    model = GPT(GPTConfig(vocab_size=V))
    model.train()
    model.blocks[1].eval()
    before = [module.training for module in model.modules()]
    with eval_mode(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == before


def test_a_sequence_longer_than_the_block_size_is_refused_with_both_numbers():
    with pytest.raises(ValueError, match="14 tokens is longer than block_size=13"):
        GPT(GPTConfig(vocab_size=V, block_size=13))(torch.zeros(1, 14, dtype=torch.long))


def test_a_sequence_longer_than_its_cache_is_refused_with_both_numbers():
    model = GPT(GPTConfig(vocab_size=V, block_size=13))
    cache = KVCache(model.config, batch=1, size=7)
    model(torch.zeros(1, 5, dtype=torch.long), cache=cache)
    with pytest.raises(ValueError, match="8 tokens is longer than the cache's size=7"):
        model(torch.zeros(1, 3, dtype=torch.long), cache=cache)


@pytest.mark.parametrize("preset", PRESETS)
def test_weights_make_the_model_they_came_from(preset):
    model = model_of(PRESETS[preset])
    twin = GPT.from_weights(model.config, model.state_dict())
    assert (twin.head.weight is twin.embedding.weight) == model.config.tied_head
    ids = torch.randint(V, (2, T))
    assert torch.equal(twin.eval()(ids), model(ids))


@pytest.mark.parametrize("key", ["attention", "position", "norm", "mlp", "init"])
def test_an_unknown_kind_is_refused_with_the_known_ones(key):
    with pytest.raises(UserError, match=f"model.{key}=nonsense is none of "):
        GPT(GPTConfig(vocab_size=V, **{key: "nonsense"}))
