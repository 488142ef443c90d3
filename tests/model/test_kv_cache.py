"""The key/value cache changes nothing but the work."""

import pytest
import torch

from headwise.model.gpt import GPT
from headwise.model.kv_cache import KVCache
from tests.small import randomize, small_model

V, T = 23, 13
KINDS = [
    {"position": position, "attention": attention, "n_kv_head": groups}
    for position in ("learned", "sinusoidal", "rotary", "alibi", "none")
    for attention, groups in (("softmax", 3), ("softmax", 1), ("relu", 1))
]


def model_of(kinds) -> GPT:
    return randomize(small_model("qwen3", V, **kinds))


@pytest.mark.parametrize("kinds", KINDS, ids=lambda kinds: "-".join(map(str, kinds.values())))
@pytest.mark.parametrize("chunks", [[T], [1] * T, [7, 1, 5], [2, 11]])
@torch.no_grad()
def test_cached_and_uncached_logits_agree(kinds, chunks):
    model, ids = model_of(kinds), torch.randint(V, (2, T))
    cache = KVCache(model.config, batch_size=2, size=17)
    cached = torch.cat([model(part, cache=cache) for part in ids.split(chunks, dim=1)], dim=1)
    assert torch.allclose(cached, model(ids), atol=1e-5)
    assert cache.length == T


@pytest.mark.parametrize("kinds", KINDS, ids=lambda kinds: "-".join(map(str, kinds.values())))
@torch.no_grad()
def test_cached_prompts_of_different_lengths_have_the_logits_of_each_alone(kinds):
    model, ids = model_of(kinds), torch.randint(V, (3, T))
    padding = torch.tensor([0, 6, 3])
    cache = KVCache(model.config, batch_size=3)
    cached = torch.cat([model(part, padding, cache) for part in ids.split([8, 1, 1, 3], dim=1)], dim=1)
    for row, pad, logits in zip(ids, padding, cached, strict=True):
        assert torch.allclose(logits[pad:], model(row[None, pad:])[0], atol=1e-5)


@torch.no_grad()
def test_kv_cache_allocates_memory_once_and_only_for_key_and_value_heads():
    model = model_of({"n_kv_head": 1})
    cache = KVCache(model.config, batch_size=2, size=17)
    places = set()
    for part in torch.randint(V, (2, T)).split(1, dim=1):
        model(part, cache=cache)
        assert [memory.shape for memory in cache.memory] == [(2, 2, 1, 17, 6)] * 2
        places.add(tuple(memory.data_ptr() for memory in cache.memory))
    assert len(places) == 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@torch.no_grad()
def test_kv_cache_has_the_precision_of_the_model(dtype):
    model, ids = model_of({}).to(dtype), torch.randint(V, (1, T))
    cache = KVCache(model.config, batch_size=1)
    cached = torch.cat([model(part, cache=cache) for part in ids.split(5, dim=1)], dim=1)
    assert {memory.dtype for memory in cache.memory} == {dtype}
    assert torch.allclose(cached, model(ids), atol=1e-9 if dtype is torch.float64 else 0.1)


@torch.no_grad()
def test_kv_cache_leaves_earlier_keys_and_values_unchanged():
    model, ids = model_of({}), torch.randint(V, (1, T))
    cache = KVCache(model.config, batch_size=1)
    model(ids[:, :9], cache=cache)
    keys, values = cache.memory
    before = keys[..., :9, :].clone(), values[..., :9, :].clone()
    model(ids[:, 9:], cache=cache)
    assert torch.equal(keys[..., :9, :], before[0])
    assert torch.equal(values[..., :9, :], before[1])
    assert keys[..., 9:T, :].all()
    assert not keys[..., T:, :].any()
