"""Masked multi-head self-attention: once as the textbook writes it, once as the machine likes it.

`reference_attention` and `fused_attention` have one signature and one result (tests/model/test_attention.py
holds them equal, forward and backward). Training and generation take the fused one; the reference one names
every step and hands out the attention pattern, so inspection swaps it in (inspection/hooks.py).

Dimensions: B batch, T tokens (Tq queries, Tk keys), H query heads, G key/value heads (H is a multiple of G),
D head width, C = n_embd. A query at position i may look at keys 0..i.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from headwise.config import GPTConfig
from headwise.errors import choose
from headwise.model.kv_cache import LayerCache
from headwise.model.layers import NORMS
from headwise.model.position import Angles, NoPosition

Normalize = Callable[[Tensor], Tensor]
Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None, float], tuple[Tensor, Tensor | None]]


def causal_mask(n_query: int, n_key: int, device: torch.device | None = None) -> Tensor:
    """[Tq, Tk] booleans, True where a query may look. The last query stands at the last key."""
    return torch.ones(n_query, n_key, dtype=torch.bool, device=device).tril(n_key - n_query)


def softmax(scores: Tensor) -> Tensor:
    """Masked scores [..., Tk] -> weights above zero that sum to 1 (Vaswani et al. 2017, eq. 1)."""
    return scores.softmax(dim=-1)


def relu(scores: Tensor) -> Tensor:
    """Masked scores [..., Tk] -> max(score, 0) / number of visible keys (Wortsman et al. 2023, section 3)."""
    visible = (scores > -math.inf).sum(dim=-1, keepdim=True).clamp(min=1)
    return scores.relu() / visible


def reference_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    dropout: float = 0.0,
    normalize: Normalize = softmax,
) -> tuple[Tensor, Tensor]:
    """softmax(q k^T / sqrt(D) + mask) v, step by step (Vaswani et al. 2017, eq. 1).

    q [B, H, Tq, D]; k [B, G, Tk, D] and v [B, G, Tk, Dv], each key/value head serving H/G query heads (Ainslie et
    al. 2023). Keys and values may come from another sequence than the queries: only D must agree. mask [Tq, Tk], or
    anything that broadcasts to [B, H, Tq, Tk], is True where a query may look; None is the causal mask, with the last
    query at the last key. Returns z [B, H, Tq, Dv], the mixture of values each query receives, and the pattern
    [B, H, Tq, Tk], whose rows are the weights of that mixture before dropout. A query that may look nowhere
    receives zeros.
    """
    group = q.size(1) // k.size(1)
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)  # [B, H, Tk, D]
    visible = causal_mask(q.size(-2), k.size(-2), q.device) if mask is None else mask
    scores = q @ k.transpose(-2, -1)  # how well each query matches each key
    scaled = scores / math.sqrt(q.size(-1))  # variance 1 whatever the width
    masked = scaled.masked_fill(~visible, -math.inf)  # not the future
    pattern = normalize(masked).masked_fill(~visible, 0.0)  # the weights; NaN where softmax found no key becomes 0
    z = F.dropout(pattern, dropout) @ v
    return z, pattern


SHORT = 256  # tokens up to which a CPU is quicker with the products themselves than with torch's fused kernel


def short_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The mixtures z of reference_attention with softmax and the causal mask, in the fewest kernels that form the
    pattern: as many queries as keys, as many heads of each, no dropout."""
    future = torch.full((q.size(-2), q.size(-2)), -math.inf, dtype=q.dtype, device=q.device).triu(1)
    every = [x.flatten(0, 1) for x in (q, k, v)]  # B*H matrices each
    masked = torch.baddbmm(future.expand(len(every[0]), -1, -1), every[0], every[1].mT, alpha=q.size(-1) ** -0.5)
    return (masked.softmax(dim=-1) @ every[2]).unflatten(0, q.shape[:2])


def fused_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0.0
) -> tuple[Tensor, None]:
    """reference_attention with softmax, quicker: for long sequences and on GPUs one kernel, which never forms the
    pattern (Dao et al. 2022)."""
    square = mask is None and q.size(-2) == k.size(-2)
    if square and q.device.type == "cpu" and q.shape[:3] == k.shape[:3] and q.size(-2) <= SHORT and not dropout:
        return short_attention(q, k, v), None
    if mask is None and not square and q.size(-2) > 1:  # a single query, at the last key, may look everywhere
        mask = causal_mask(q.size(-2), k.size(-2), q.device)
    gqa = q.size(1) != k.size(1)
    z = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=square, enable_gqa=gqa)
    return z, None


class AttentionKind(NamedTuple):
    """One way of weighing values: how masked scores become weights, and a kernel that does it all, if there is one."""

    normalize: Normalize
    fused: Attend | None = None


ATTENTIONS = {
    "softmax": AttentionKind(softmax, fused_attention),
    "relu": AttentionKind(relu),
}


def split_heads(x: Tensor, n_head: int) -> Tensor:
    """[B, T, H*D] -> [B, H, T, D]: each head gets its own slice of the features."""
    return x.view(*x.shape[:2], n_head, -1).transpose(1, 2)


def merge_heads(z: Tensor) -> Tensor:
    """[B, H, T, D] -> [B, T, H*D]: the heads side by side again."""
    return z.transpose(1, 2).flatten(-2)


class CausalSelfAttention(nn.Module):
    """The update that attention adds to every token: x [B, T, C] -> [B, T, C].

    Queries, keys and values are projections of the same tokens, folded into heads; each head mixes values of
    the tokens it looks at; the heads side by side are multiplied by W_O, which sums one update per head.
    """

    def __init__(self, config: GPTConfig):
        super().__init__()
        kind = choose("model.attention", config.attention, ATTENTIONS)
        self.n_head, self.n_kv_head, width = config.n_head, config.kv_heads, config.head_width
        self.heads = [self.n_head, self.n_kv_head, self.n_kv_head]  # of queries, keys and values
        self.sizes = [count * width for count in self.heads]
        self.qkv = nn.Linear(config.n_embd, sum(self.sizes), bias=config.bias)  # W_Q, W_K, W_V side by side
        self.out = nn.Linear(self.n_head * width, config.n_embd, bias=config.bias)  # W_O
        norm = choose("model.norm", config.norm, NORMS) if config.qk_norm else lambda *_: nn.Identity()
        self.q_norm, self.k_norm = norm(width, config), norm(width, config)
        self.dropout = config.dropout
        self.reference: Attend = partial(reference_attention, normalize=kind.normalize)
        self.attend = kind.fused or self.reference  # what runs; capture swaps the reference in

    def forward(
        self,
        x: Tensor,
        position: NoPosition,
        angles: Angles | None,
        mask: Tensor | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        every = split_heads(self.qkv(x), sum(self.heads))  # [B, H+G+G, T, D]
        q, k, v = every.split(self.heads, dim=1)  # [B, H, T, D], 2 x [B, G, T, D]
        q = position.rotate(self.q_norm(q), angles)
        k = position.rotate(self.k_norm(k), angles)
        if cache is not None:
            k, v = cache.extend(k, v)  # [B, G, Tk, D]: those of all tokens so far
        dropout = self.dropout if self.training else 0.0
        z, _ = self.attend(q, k, v, mask, dropout)  # [B, H, T, D]
        return F.dropout(self.out(merge_heads(z)), dropout)  # [B, T, C]
