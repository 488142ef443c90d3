"""The key/value cache: what attention computed for earlier tokens, kept so that it is computed once.

    cache = KVCache(model.config, batch=1)
    logits = model(prompt, cache=cache)         # in one go, or in chunks
    logits = model(next_id, cache=cache)        # one token: its query against all keys so far

Memory is reserved once, in the model's own dtype and on its device. A causal model's keys and values never change when
tokens are added, so this is exact. It is for generation: use it under torch.no_grad() or torch.inference_mode().

Dimensions: L layers, B batch, G key/value heads, S slots, T new tokens, D head width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from headwise.model.config import GPTConfig


class LayerCache(NamedTuple):
    """One layer's slots, of which the first `length` are taken."""

    keys: Tensor  # [B, G, S, D], as they met the queries: normed and turned
    values: Tensor  # [B, G, S, D]
    length: int

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write k, v [B, G, T, D] into the next slots; gives those of all tokens so far, [B, G, length + T, D]."""
        end = self.length + k.size(2)
        self.keys[:, :, self.length : end] = k
        self.values[:, :, self.length : end] = v
        return self.keys[:, :, :end], self.values[:, :, :end]


class KVCache:
    """Keys and values of every layer for `batch` sequences of up to `size` tokens (default: block_size)."""

    def __init__(
        self,
        config: GPTConfig,
        batch: int,
        size: int | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ):
        self.batch = batch
        self.size = config.block_size if size is None else size
        shape = (config.n_layer, batch, config.kv_heads, self.size, config.head_width)
        self.keys, self.values = (torch.zeros(shape, dtype=dtype, device=device) for _ in range(2))  # [L, B, G, S, D]
        self.length = 0  # tokens seen so far, the same for every sequence of the batch

    def layer(self, index: int) -> LayerCache:
        """The slots of one layer."""
        return LayerCache(self.keys[index], self.values[index], self.length)
