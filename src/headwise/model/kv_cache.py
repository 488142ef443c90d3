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

from headwise.config import GPTConfig


class LayerCache(NamedTuple):
    """One layer's slots, of which the first `length` are taken."""

    cache: KVCache
    layer: int
    length: int

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write k, v [B, G, T, D] into the next slots; gives those of all tokens so far, [B, G, length + T, D]. Keys
        are kept as they met the queries: normed and turned."""
        keys, values = self.cache.slots(self.layer, k)
        new = k.size(2)
        keys.narrow(2, self.length, new).copy_(k)
        values.narrow(2, self.length, new).copy_(v)
        return keys.narrow(2, 0, self.length + new), values.narrow(2, 0, self.length + new)


class KVCache:
    """Keys and values of every layer for `batch` sequences of up to `size` tokens (default: block_size)."""

    def __init__(self, config: GPTConfig, batch: int, size: int | None = None):
        self.batch = batch
        self.size = config.block_size if size is None else size
        self.shape = (config.n_layer, batch, config.kv_heads, self.size, config.head_width)  # L, B, G, S, D
        self.memory: tuple[Tensor, Tensor] | None = None  # keys and values of all layers, [L, B, G, S, D] each
        self.layers: list[tuple[Tensor, Tensor]] = []  # the same, [B, G, S, D] each
        self.length = 0  # tokens seen so far, the same for every sequence of the batch

    def slots(self, layer: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """A layer's slots for keys and for values, reserved in the dtype and on the device of `like`."""
        if self.memory is None:
            self.memory = like.new_zeros(self.shape), like.new_zeros(self.shape)
            self.layers = [(self.memory[0][i], self.memory[1][i]) for i in range(self.shape[0])]
        return self.layers[layer]

    def layer(self, index: int) -> LayerCache:
        """The slots of one layer."""
        return LayerCache(self, index, self.length)
