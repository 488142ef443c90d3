"""Capture the attention maps of a forward pass, and edit the outputs of its heads, from outside the model.

    with capture(model) as maps:
        model(ids)
    maps[layer].pattern  # [B, H, Tq, Tk]

    with edit_heads(model, lambda layer, z: z * 0 if layer == 1 else z):
        model(ids)

Inside the block the `attend` function of every attention module is replaced; afterwards it is restored. Weights,
training mode and random state do not change. A compiled model runs uncompiled inside the block, and is not compiled
again after it.

Dimensions: B batch, H heads, G key/value heads, Tq queries, Tk keys (more than queries with a cache), D head_dim,
C = n_embd, V = vocab_size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from headwise.model.attention import Attend, CausalSelfAttention, causal_mask
from headwise.model.gpt import GPT, eval_mode, uncompiled


@dataclass
class AttentionMap:
    """One layer's attention in one forward pass: float32, detached from the graph."""

    q: Tensor  # [B, H, Tq, D], after QK-norm and rotation
    k: Tensor  # [B, G, Tk, D], after QK-norm and rotation
    v: Tensor  # [B, G, Tk, D]
    mask: Tensor  # broadcasts to [B, H, Tq, Tk]; True where a query may attend to a key
    pattern: Tensor  # [B, H, Tq, Tk], attention weights after normalizing and mask; rows are queries, columns keys
    z: Tensor  # [B, H, Tq, D], pattern @ v
    w_o: Tensor  # [H, D, C], each head's slice of the output projection
    bias: Tensor | None = None  # [H, Tq, Tk], what the position adds to the scaled scores; None: nothing

    @property
    def scores(self) -> Tensor:
        """Return q.k [B, H, Tq, Tk], before scaling and mask."""
        k = self.k.repeat_interleave(self.q.size(1) // self.k.size(1), dim=1)
        return self.q @ k.transpose(-2, -1)

    @property
    def scaled_scores(self) -> Tensor:
        """Return q.k / sqrt(D) [B, H, Tq, Tk]."""
        return self.scores / math.sqrt(self.q.size(-1))

    @property
    def masked_scores(self) -> Tensor:
        """Return q.k / sqrt(D) plus the bias [B, H, Tq, Tk], minus infinity where masked. Normalizing these, by softmax
        or relu, gives the pattern."""
        biased = self.scaled_scores if self.bias is None else self.scaled_scores + self.bias
        return biased.masked_fill(~self.mask, -math.inf)

    @property
    def result(self) -> Tensor:
        """Return what each head adds to the residual stream, z W_O [B, H, Tq, C]. Their sum plus W_O's bias is the
        layer's output."""
        return self.z @ self.w_o


@contextmanager
def capture(model: nn.Module) -> Iterator[dict[int, AttentionMap]]:
    """Yield {layer: attention map}, which holds the maps of the latest forward pass of `model` inside the block."""
    maps: dict[int, AttentionMap] = {}

    def replacement(layer: int, attention: CausalSelfAttention) -> Attend:
        def attend(
            q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float, bias: Tensor | None = None
        ) -> tuple[Tensor, Tensor]:
            visible = causal_mask(q.size(-2), k.size(-2), q.device) if mask is None else mask
            with torch.autocast(q.device.type, enabled=False):
                z, pattern = attention.reference(q.float(), k.float(), v.float(), visible, dropout, bias)
            assert pattern is not None
            maps[layer] = AttentionMap(
                q=q.detach().float(),
                k=k.detach().float().clone(),  # the key/value cache is overwritten by the next pass
                v=v.detach().float().clone(),
                mask=visible,
                pattern=pattern.detach(),
                z=z.detach(),
                w_o=attention.out.weight.T.unflatten(0, (attention.n_head, -1)).detach().float().clone(),
                bias=None
                if bias is None
                else bias.detach().expand(q.size(1), -1, -1),  # it may be the same in all heads
            )
            return z.to(q.dtype), pattern

        return attend

    with _replaced_attention(model, replacement):
        yield maps


@contextmanager
def edit_heads(model: nn.Module, edit: Callable[[int, Tensor], Tensor]) -> Iterator[None]:
    """Replace each layer's z [B, H, Tq, D] by edit(layer, z), before W_O, in every forward pass of `model` inside the
    block. Gradients flow through the edit."""

    def replacement(layer: int, attention: CausalSelfAttention) -> Attend:
        original = attention.attend

        def attend(*inputs: Any) -> tuple[Tensor, Tensor | None]:
            z, pattern = original(*inputs)
            return edit(layer, z), pattern

        return attend

    with _replaced_attention(model, replacement):
        yield


@contextmanager
def _replaced_attention(model: nn.Module, replacement: Callable[[int, CausalSelfAttention], Attend]) -> Iterator[None]:
    """Replace the `attend` function of every attention module by replacement(layer, module), inside the block."""
    modules = [module for module in model.modules() if isinstance(module, CausalSelfAttention)]
    originals = [module.attend for module in modules]
    with uncompiled():
        try:
            for layer, module in enumerate(modules):
                module.attend = replacement(layer, module)
            yield
        finally:
            for module, original in zip(modules, originals, strict=True):
                module.attend = original


def run_and_capture(model: GPT, ids: Tensor) -> tuple[list[AttentionMap], Tensor]:
    """Return every layer's attention map and the logits [B, T, V] for token ids [B, T], all on the CPU. The model runs
    in eval mode, without gradients."""
    with torch.no_grad(), eval_mode(model), capture(model) as maps:
        logits = model(ids.to(model.embedding.weight.device))
    in_order = [maps[layer] for layer in sorted(maps)]
    on_cpu = [replace(each, **{name: x.cpu() for name, x in vars(each).items() if x is not None}) for each in in_order]
    return on_cpu, logits.cpu()
