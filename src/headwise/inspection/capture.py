"""Attention maps from any forward pass, from outside the model.

    with capture(model) as maps:
        model(ids)
    maps[layer].pattern        # [B, H, T, T]

Inside the block every attention runs its reference body, in float32, which names the pattern; outside it the
model is untouched and nothing is kept. Weights, training mode and random state stay as they are, and a model
compiled in place runs uncompiled for the length of the block, without being compiled again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from headwise.model.attention import Attend, CausalSelfAttention
from headwise.model.gpt import GPT


@dataclass
class AttentionMap:
    """One layer's attention of the latest forward pass, float32. B batch, H heads, T tokens, D head width."""

    pattern: Tensor  # [B, H, T, T], row = query, column = key; rows sum to 1, the future is 0
    z: Tensor  # [B, H, T, D], the mixture of values that each query received


@contextmanager
def capture(model: GPT) -> Iterator[dict[int, AttentionMap]]:
    """Collect every layer's attention map, {layer: map}, of the forward passes inside the block."""
    maps: dict[int, AttentionMap] = {}
    parts = [module for module in model.modules() if isinstance(module, CausalSelfAttention)]
    fast = [part.attend for part in parts]
    with torch.compiler.set_stance("force_eager"):
        try:
            for layer, part in enumerate(parts):
                part.attend = _recording(part.reference, layer, maps)
            yield maps
        finally:
            for part, attend in zip(parts, fast, strict=True):
                part.attend = attend


def _recording(reference: Attend, layer: int, maps: dict[int, AttentionMap]) -> Attend:
    def attend(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> tuple[Tensor, Tensor | None]:
        with torch.autocast(q.device.type, enabled=False):
            z, pattern = reference(q.float(), k.float(), v.float(), dropout)
        assert pattern is not None
        maps[layer] = AttentionMap(pattern.detach(), z.detach())
        return z.to(q.dtype), pattern

    return attend
