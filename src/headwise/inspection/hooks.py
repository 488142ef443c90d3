"""Attention maps from any forward pass, from outside the model.

    with capture(model) as maps:
        model(ids)
    maps[layer].pattern        # [B, H, Tq, Tk]

Inside the block every attention runs its reference body, in float32, which names the pattern; outside it the
model is untouched and nothing is kept. Weights, training mode and random state stay as they are, and a model
compiled in place runs uncompiled for the length of the block, without being compiled again.

Dimensions: B batch, H heads, G key/value heads, Tq queries, Tk keys (more than queries with a cache), D head width,
C = n_embd.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from headwise.model.attention import Attend, CausalSelfAttention, causal_mask


@dataclass
class AttentionMap:
    """One layer's attention of the latest forward pass, float32, without gradients."""

    q: Tensor  # [B, H, Tq, D], as they meet the keys: normed and turned
    k: Tensor  # [B, G, Tk, D]
    v: Tensor  # [B, G, Tk, D]
    mask: Tensor  # broadcasts to [B, H, Tq, Tk]: True where a query may look
    pattern: Tensor  # [B, H, Tq, Tk], row = query, column = key: the weights; what may not be seen is 0
    z: Tensor  # [B, H, Tq, D], the mixture of values that each query received
    w_o: Tensor  # [H, D, C], each head's slice of the output projection

    def cpu(self) -> AttentionMap:
        """The same on the CPU."""
        return AttentionMap(**{name: value.cpu() for name, value in vars(self).items()})

    @property
    def scores(self) -> Tensor:
        """q.k / sqrt(D), minus infinity where masked [B, H, Tq, Tk]; the pattern is their normalisation."""
        k = self.k.repeat_interleave(self.q.size(1) // self.k.size(1), dim=1)
        return (self.q @ k.transpose(-2, -1) / math.sqrt(self.q.size(-1))).masked_fill(~self.mask, -math.inf)

    @property
    def result(self) -> Tensor:
        """What each head adds to each token's embedding [B, H, Tq, C]; their sum and W_O's bias are the layer's
        update."""
        return self.z @ self.w_o


Wrap = Callable[[int, CausalSelfAttention, Attend], Attend]


@contextmanager
def _swapped(model: nn.Module, wrap: Wrap) -> Iterator[None]:
    """Inside, the attention of every layer is wrap(layer, part, what it was)."""
    parts = [module for module in model.modules() if isinstance(module, CausalSelfAttention)]
    before = [part.attend for part in parts]
    with uncompiled():
        try:
            for layer, part in enumerate(parts):
                part.attend = wrap(layer, part, part.attend)
            yield
        finally:
            for part, attend in zip(parts, before, strict=True):
                part.attend = attend


def uncompiled() -> AbstractContextManager:
    """Inside, what torch has compiled runs as it was written. Where nothing was compiled yet, torch's compiler is not
    even loaded, which takes a second."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


@contextmanager
def capture(model: nn.Module) -> Iterator[dict[int, AttentionMap]]:
    """Collect every layer's attention map, {layer: map}, of the latest forward pass inside the block."""
    maps: dict[int, AttentionMap] = {}

    def recording(layer: int, part: CausalSelfAttention, attend: Attend) -> Attend:
        return _recording(part, layer, maps)

    with _swapped(model, recording):
        yield maps


@contextmanager
def edited(model: nn.Module, edit: Callable[[int, Tensor], Tensor]) -> Iterator[None]:
    """Inside, what each layer's heads mix, z [B, H, Tq, D], becomes edit(layer, z) before W_O; with gradients."""

    def editing(layer: int, part: CausalSelfAttention, attend: Attend) -> Attend:
        def attend_and_edit(
            q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0.0
        ) -> tuple[Tensor, Tensor | None]:
            z, pattern = attend(q, k, v, mask, dropout)
            return edit(layer, z), pattern

        return attend_and_edit

    with _swapped(model, editing):
        yield


def _recording(part: CausalSelfAttention, layer: int, maps: dict[int, AttentionMap]) -> Attend:
    def attend(
        q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0.0
    ) -> tuple[Tensor, Tensor | None]:
        visible = causal_mask(q.size(-2), k.size(-2), q.device) if mask is None else mask
        with torch.autocast(q.device.type, enabled=False):
            z, pattern = part.reference(q.float(), k.float(), v.float(), visible, dropout)
        assert pattern is not None
        w_o = part.out.weight.T.unflatten(0, (part.n_head, -1))  # [H, D, C]
        maps[layer] = AttentionMap(
            q=q.detach().float(),
            k=k.detach().float().clone(),  # a cache writes on in its memory
            v=v.detach().float().clone(),
            mask=visible,
            pattern=pattern.detach(),
            z=z.detach(),
            w_o=w_o.detach().float().clone(),  # training changes it in place
        )
        return z.to(q.dtype), pattern

    return attend
