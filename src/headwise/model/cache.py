"""The key/value cache: what attention computed for earlier tokens, kept so that it is computed once.

    cache = KVCache(model.config, batch=1)
    logits = model(prompt, cache=cache)         # in one go, or in chunks
    logits = model(next_id, cache=cache)        # one token: its query against all keys so far

Memory is reserved once, when the first keys come, in their dtype and on their device. A causal model's keys and values
never change when tokens are added, so this is exact. It is for generation: use it under torch.no_grad() or
torch.inference_mode().

Dimensions: L layers, B batch, G key/value heads, S slots, T new tokens, D head width.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from headwise.model.config import GPTConfig


class LayerCache(NamedTuple):
    """One layer's slots, of which the first `length` are taken."""

    cache: KVCache
    layer: int
    length: int

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write k, v [B, G, T, D] into the next slots; gives those of all tokens so far, [B, G, length + T, D]. Keys
        are kept as they met the queries: normed and turned."""
        keys, values = self.cache.slots(k)
        end = self.length + k.size(2)
        keys[self.layer, :, :, self.length : end] = k
        values[self.layer, :, :, self.length : end] = v
        return keys[self.layer, :, :, :end], values[self.layer, :, :, :end]


class KVCache:
    """Keys and values of every layer for `batch` sequences of up to `size` tokens (default: block_size)."""

    def __init__(self, config: GPTConfig, batch: int, size: int | None = None):
        self.batch = batch
        self.size = config.block_size if size is None else size
        self.shape = (config.n_layer, batch, config.kv_heads, self.size, config.head_width)  # L, B, G, S, D
        self.memory: tuple[Tensor, Tensor] | None = None  # keys and values
        self.length = 0  # tokens seen so far, the same for every sequence of the batch

    def slots(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """The slots of all layers, [L, B, G, S, D] each, reserved in the dtype and on the device of `like`."""
        if self.memory is None:
            self.memory = like.new_zeros(self.shape), like.new_zeros(self.shape)
        return self.memory

    def layer(self, index: int) -> LayerCache:
        """The slots of one layer."""
        return LayerCache(self, index, self.length)
