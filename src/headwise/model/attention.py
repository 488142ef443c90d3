"""Masked multi-head self-attention, once written as in a textbook and once for speed.

`reference_attention` and `fused_attention` have the same signature and return the same z (tests/model/test_attention.py
compares them, forward and backward). Training and generation use the fused one for softmax; for short sequences on a
CPU it calls `short_attention`. The reference one names every step and returns the attention pattern, so inspection
swaps it in (inspection/hooks.py).

Dimensions: B batch, T tokens (Tq queries, Tk keys), H query heads, G key/value heads (H is a multiple of G),
D = head_dim, C = n_embd. A query at position i attends to keys 0..i.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from headwise.config import ResolvedGPTConfig
from headwise.errors import choose
from headwise.model.kv_cache import LayerCache
from headwise.model.layers import NORMS
from headwise.model.position import Angles, Position
from headwise.registry import table

Normalize = Callable[[Tensor], Tensor]
Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None, float, Tensor | None], tuple[Tensor, Tensor | None]]


def causal_mask(n_query: int, n_key: int, device: torch.device | None = None) -> Tensor:
    """Return booleans [Tq, Tk], True where a query attends to a key. The last query is at the position of the last
    key."""
    return torch.ones(n_query, n_key, dtype=torch.bool, device=device).tril(n_key - n_query)


def softmax(scores: Tensor) -> Tensor:
    """Return weights [..., Tk] above zero that sum to 1 from masked scores (Vaswani et al. 2017, eq. 1)."""
    return scores.softmax(dim=-1)


def relu(scores: Tensor) -> Tensor:
    """Return max(score, 0) / number of visible keys from masked scores [..., Tk] (Wortsman et al. 2023, section 3)."""
    visible = (scores > -math.inf).sum(dim=-1, keepdim=True).clamp(min=1)
    return scores.relu() / visible


def reference_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    dropout: float = 0.0,
    bias: Tensor | None = None,
    normalize: Normalize = softmax,
) -> tuple[Tensor, Tensor]:
    """Return normalize(q k^T / sqrt(D) + bias) v, with masked scores at minus infinity, and the weights, step by step
    (Vaswani et al. 2017, eq. 1).

    q is [B, H, Tq, D], k [B, G, Tk, D] and v [B, G, Tk, Dv]; each key/value head serves H/G query heads (Ainslie et al.
    2023). Keys and values may come from another sequence than the queries: only D must agree. mask is True where a
    query attends to a key, [Tq, Tk] or anything that broadcasts to [B, H, Tq, Tk]; None is the causal mask. bias, which
    is that of the positions [H, Tq, Tk], is added to the scaled scores unless it is None. The result
    is z [B, H, Tq, Dv], the weighted sum of values for each query, and the pattern [B, H, Tq, Tk], whose rows are the
    weights before dropout. The z of a query without any visible key is zero.
    """
    group = q.size(1) // k.size(1)
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)  # [B, H, Tk, D]
    visible = causal_mask(q.size(-2), k.size(-2), q.device) if mask is None else mask
    scores = q @ k.transpose(-2, -1)  # how well each query matches each key
    scaled_scores = scores / math.sqrt(q.size(-1))  # so that the variance does not depend on D
    biased_scores = scaled_scores if bias is None else scaled_scores + bias.to(q.dtype)  # prefer near keys (ALiBi)
    masked_scores = biased_scores.masked_fill(~visible, -math.inf)  # hide later tokens
    pattern = normalize(masked_scores).masked_fill(~visible, 0.0)  # the weights; softmax over no key gives NaN, here 0
    z = F.dropout(pattern, dropout) @ v
    return z, pattern


SHORT = 256  # tokens up to which short_attention is faster on a CPU than torch's fused kernel


def short_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return the z of reference_attention with softmax and the causal mask, in the fewest kernels that compute the
    pattern. Requires as many queries as keys, as many heads of each, and no dropout."""
    future = torch.full((q.size(-2), q.size(-2)), -math.inf, dtype=q.dtype, device=q.device).triu(1)
    flat_q, flat_k, flat_v = (x.flatten(0, 1) for x in (q, k, v))  # [B*H, T, D]
    masked_scores = torch.baddbmm(future.expand(len(flat_q), -1, -1), flat_q, flat_k.mT, alpha=q.size(-1) ** -0.5)
    return (masked_scores.softmax(dim=-1) @ flat_v).unflatten(0, q.shape[:2])


def fused_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    dropout: float = 0.0,
    bias: Tensor | None = None,
) -> tuple[Tensor, None]:
    """Return the z of reference_attention with softmax, and None for the pattern. For long sequences and on GPUs this
    is one kernel, which never stores the pattern (Dao et al. 2022)."""
    square = mask is None and bias is None and q.size(-2) == k.size(-2)
    if square and q.device.type == "cpu" and q.shape[:3] == k.shape[:3] and q.size(-2) <= SHORT and not dropout:
        return short_attention(q, k, v), None
    if mask is None and not square and q.size(-2) > 1:  # a single query, the last, attends to every key
        mask = causal_mask(q.size(-2), k.size(-2), q.device)
    if bias is not None:  # the kernel adds a mask of numbers to the scaled scores
        bias = bias.to(q.dtype)[None]
        mask = bias if mask is None else bias.masked_fill(~mask, -math.inf)
    gqa = q.size(1) != k.size(1)
    z = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=square, enable_gqa=gqa)
    return z, None


class AttentionKind(NamedTuple):
    """How masked scores become weights, and a kernel for all of attention where there is one."""

    normalize: Normalize
    fused: Attend | None = None


ATTENTIONS: dict[str, AttentionKind | Normalize] = table(
    "attention",
    {
        "softmax": AttentionKind(softmax, fused_attention),
        "relu": AttentionKind(relu),
    },
)


def attention_kind(name: str) -> AttentionKind:
    """Return the kind of attention of this name. A plain function is how masked scores become weights."""
    kind = choose("model.attention", name, ATTENTIONS)
    return AttentionKind(kind) if callable(kind) else kind


def split_heads(x: Tensor, n_head: int) -> Tensor:
    """Return [B, H, T, D] from [B, T, H*D]: each head gets its own slice of the features."""
    return x.view(*x.shape[:2], n_head, -1).transpose(1, 2)


def merge_heads(z: Tensor) -> Tensor:
    """Return [B, T, H*D] from [B, H, T, D]: the heads concatenated."""
    return z.transpose(1, 2).flatten(-2)


class CausalSelfAttention(nn.Module):
    """The update that attention adds to the residual stream: x [B, T, C] -> [B, T, C].

    Queries, keys and values are projections of the same tokens, split into heads. Each head computes a weighted sum of
    values for each token; the concatenated heads times W_O are the sum of one update per head.
    """

    def __init__(self, config: ResolvedGPTConfig):
        super().__init__()
        kind = attention_kind(config.attention)
        self.n_head, self.n_kv_head, head_dim = config.n_head, config.n_kv_head, config.head_dim
        self.head_counts = [self.n_head, self.n_kv_head, self.n_kv_head]  # of queries, keys and values
        self.widths = [n * head_dim for n in self.head_counts]
        self.qkv = nn.Linear(config.n_embd, sum(self.widths), bias=config.bias)  # W_Q, W_K, W_V side by side
        self.out = nn.Linear(self.n_head * head_dim, config.n_embd, bias=config.bias)  # W_O
        norm = choose("model.norm", config.norm, NORMS) if config.qk_norm else lambda *_: nn.Identity()
        self.q_norm, self.k_norm = norm(head_dim, config), norm(head_dim, config)
        self.dropout = config.dropout
        self.reference: Attend = partial(reference_attention, normalize=kind.normalize)
        self.attend = kind.fused or self.reference  # what forward calls; capture swaps the reference in

    def forward(
        self,
        x: Tensor,
        position: Position,
        angles: Angles | None,
        mask: Tensor | None = None,
        cache: LayerCache | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        all_heads = split_heads(self.qkv(x), sum(self.head_counts))  # [B, H+G+G, T, D]
        q, k, v = all_heads.split(self.head_counts, dim=1)  # [B, H, T, D], 2 x [B, G, T, D]
        q = position.rotate(self.q_norm(q), angles)
        k = position.rotate(self.k_norm(k), angles)
        if cache is not None:
            k, v = cache.extend(k, v)  # [B, G, Tk, D]: those of all tokens so far
        dropout = self.dropout if self.training else 0.0
        z, _ = self.attend(q, k, v, mask, dropout, bias)  # [B, H, T, D]
        return F.dropout(self.out(merge_heads(z)), dropout)  # [B, T, C]
