"""The key/value cache: keys and values of earlier tokens, stored so that each is computed once.

    cache = KVCache(model.config, batch_size=1)
    logits = model(prompt, cache=cache)         # all at once, or in chunks
    logits = model(next_id, cache=cache)        # one token: its query against all keys so far

Memory is allocated once, with the dtype and device of the first keys. A causal model's keys and values never change
when tokens are added, so the result is exact. For generation only: use it under torch.no_grad() or
torch.inference_mode().

Dimensions: L layers, B batch, G key/value heads, S = size, T new tokens, D = head_dim.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from headwise.config import ResolvedGPTConfig


class LayerCache(NamedTuple):
    """One layer of a KVCache, which holds `length` tokens."""

    cache: KVCache
    layer: int
    length: int

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store k, v [B, G, T, D] after those in the cache, and return all of them, [B, G, length + T, D]. Keys are
        stored after norm and rotation."""
        keys, values = self.cache.tensors(self.layer, k)
        new = k.size(2)
        keys.narrow(2, self.length, new).copy_(k)
        values.narrow(2, self.length, new).copy_(v)
        return keys.narrow(2, 0, self.length + new), values.narrow(2, 0, self.length + new)


class KVCache:
    """Keys and values of every layer for `batch_size` sequences of up to `size` tokens (default: block_size)."""

    def __init__(self, config: ResolvedGPTConfig, batch_size: int, size: int | None = None):
        self.batch_size = batch_size
        self.size = config.block_size if size is None else size
        self.shape = (config.n_layer, batch_size, config.n_kv_head, self.size, config.head_dim)  # L, B, G, S, D
        self.memory: tuple[Tensor, Tensor] | None = None  # keys and values of all layers, [L, B, G, S, D] each
        self.layers: list[tuple[Tensor, Tensor]] = []  # the same for each layer, [B, G, S, D] each
        self.length = 0  # tokens in the cache, the same for every sequence of the batch

    def tensors(self, layer: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return a layer's keys and values [B, G, S, D], allocated with the dtype and device of `like`."""
        if self.memory is None:
            self.memory = like.new_zeros(self.shape), like.new_zeros(self.shape)
            self.layers = [(self.memory[0][i], self.memory[1][i]) for i in range(self.shape[0])]
        return self.layers[layer]

    def layer(self, index: int) -> LayerCache:
        """Return one layer, for its attention to extend."""
        return LayerCache(self, index, self.length)
