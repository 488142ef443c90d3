"""Measure what each head attends to: head metrics, which are pure functions of attention patterns.

A pattern A [..., T, T] with T >= 2 has a row i for each query and a column j <= i for each key. A metric takes
patterns and returns [...], one score for each head. Row 0 has a single key, so it counts in distances only.

To add a metric, write a function below and add a line to PATTERN_METRICS or REPEATS_METRICS. Metrics that need the
model as well are in effects.py.

Dimensions: B batch, H heads, G key/value heads, T tokens, D head_dim, C = n_embd, L = n_layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from headwise.inspection.hooks import AttentionMap
from headwise.registry import table


def entropy(pattern: Tensor) -> Tensor:
    """Return the mean over rows of H_i / ln(i + 1), H_i = -sum_j A_ij ln A_ij. 0: all weight on one key; 1: uniform.
    Each row is divided by its own maximum, because early rows have few keys."""
    rows = torch.special.entr(pattern).sum(-1)[..., 1:]
    maximum = torch.arange(2, pattern.size(-1) + 1, device=pattern.device, dtype=pattern.dtype).log()
    return (rows / maximum).mean(-1)


def mean_distance(pattern: Tensor) -> Tensor:
    """Return the mean distance from query to key, in tokens: sum A_ij (i - j) / sum A_ij (Vig & Belinkov 2019)."""
    position = torch.arange(pattern.size(-1), device=pattern.device, dtype=pattern.dtype)
    distance = position[:, None] - position  # i - j
    return (pattern * distance).sum((-2, -1)) / pattern.sum((-2, -1)).clamp(min=torch.finfo(pattern.dtype).tiny)


def mean_distance_without_first(pattern: Tensor) -> Tensor:
    """Return mean_distance of the weights on all keys but the first, which is often an attention sink."""
    return mean_distance(torch.cat((torch.zeros_like(pattern[..., :1]), pattern[..., 1:]), dim=-1))


def previous_token(pattern: Tensor) -> Tensor:
    """Return the mean weight on the token before the query: mean of A[i, i-1]."""
    return pattern.diagonal(-1, -2, -1).mean(-1)


def own_token(pattern: Tensor) -> Tensor:
    """Return the mean weight on the query's own token: mean of A[i, i]."""
    return pattern.diagonal(0, -2, -1)[..., 1:].mean(-1)


def first_token(pattern: Tensor) -> Tensor:
    """Return the mean weight on the first token, the attention sink (Xiao et al. 2023): mean of A[i, 0]."""
    return pattern[..., 1:, 0].mean(-1)


def duplicate_token(pattern: Tensor, ids: Tensor) -> Tensor:
    """Return the mean weight on earlier occurrences of the query's token, over the rows that have one. ids is [T], or
    [B, T] for a pattern [B, H, T, T]."""
    return _weight_on(pattern, _earlier_occurrences(ids))


def induction(pattern: Tensor, ids: Tensor) -> Tensor:
    """Return the mean weight on the tokens that followed earlier occurrences of the query's token, over the rows that
    have one: prefix matching (Olsson et al. 2022). ids is [T], or [B, T] for a pattern [B, H, T, T]."""
    earlier = _earlier_occurrences(ids)
    return _weight_on(pattern, torch.cat((torch.zeros_like(earlier[..., :1]), earlier[..., :-1]), dim=-1))


def _earlier_occurrences(ids: Tensor) -> Tensor:
    """Return [..., T, T] booleans, True where the key is an earlier occurrence of the query's token."""
    return (ids[..., :, None] == ids[..., None, :]).tril(-1)


def _weight_on(pattern: Tensor, keys: Tensor) -> Tensor:
    """Return the mean weight on the keys, booleans [T, T] or [B, T, T], over the rows with any; 0 if no row has."""
    keys = keys.unsqueeze(-3) if keys.dim() == 3 else keys  # the same for all heads
    rows = keys.any(-1)
    return ((pattern * keys).sum(-1) * rows).sum(-1) / rows.sum(-1).clamp(min=1)


# Measured on every input:
PATTERN_METRICS: dict[str, Callable[[Tensor], Tensor]] = table(
    "head_metric",
    {
        "entropy": entropy,
        "mean_distance": mean_distance,
        "mean_distance_without_first": mean_distance_without_first,
        "previous_token": previous_token,
        "first_token": first_token,
    },
)
# Measured on repeated random tokens:
REPEATS_METRICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "duplicate_token": duplicate_token,
    "induction": induction,
}
THRESHOLDS = {  # metric -> score from which a head counts as one of its kind, in timelines, counts and descriptions
    "previous_token": 0.5,
    "own_token": 0.5,
    "first_token": 0.3,
    "duplicate_token": 0.4,
    "induction": 0.4,
}


def pattern_scores(pattern: Tensor, repeats: Tensor | None = None) -> dict[str, Tensor]:
    """Return {metric: scores [...]} of patterns [..., T, T], whose rows are normalized to sum 1 first. REPEATS_METRICS
    are included if the token ids `repeats`, [T] or [B, T], of the pattern are given."""
    pattern = normalize_rows(pattern)
    scores = {name: metric(pattern) for name, metric in PATTERN_METRICS.items()}
    if repeats is not None:
        scores |= {name: metric(pattern, repeats) for name, metric in REPEATS_METRICS.items()}
    return scores


def normalize_rows(pattern: Tensor) -> Tensor:
    """Return the pattern with each row divided by its sum, which is 1 already for softmax. Rows of zeros stay zero."""
    return pattern / pattern.sum(-1, keepdim=True).clamp(min=torch.finfo(pattern.dtype).tiny)


def value_norms(attention: AttentionMap) -> Tensor:
    """Return the norm of v_j W_O for each head and key, [B, H, T]."""
    group = attention.q.size(1) // attention.v.size(1)
    return (attention.v.repeat_interleave(group, dim=1) @ attention.w_o).norm(dim=-1)


def value_weighted(attention: AttentionMap) -> Tensor:
    """Return A_ij times the norm of v_j W_O, [B, H, T, T]: how much of token j reaches token i (Kobayashi et al. 2020).
    An attention sink has large weights and small values."""
    return attention.pattern * value_norms(attention).unsqueeze(-2)


def rollout(patterns: Tensor) -> Tensor:
    """Return the attention rollout [..., T, T] of all layers' patterns [L, ..., H, T, T]: how much of each token
    reaches each token if every layer is half identity and half the mean of its heads (Abnar & Zuidema 2020). A causal
    mask increases the first token's share from layer to layer whatever the heads do; compare rows with that in mind."""
    means = patterns.mean(-3)
    layers = (means + torch.eye(means.size(-1), device=means.device, dtype=means.dtype)) / 2
    product = layers[0]
    for layer in layers[1:]:
        product = layer @ product
    return product


EVENLY = 0.9  # entropy above which a description says that attention is spread evenly
COPIES = 0.5  # absolute ov_copying above which a description mentions it
ATTENDED_TO = {  # metric -> the keys on which it measures the share of attention
    "previous_token": "the previous token",
    "own_token": "the token itself",
    "first_token": "the first token (an attention sink)",
    "duplicate_token": "earlier occurrences of the same token, where tokens repeat",
    "induction": "what followed the same token earlier, where tokens repeat (induction)",
}


def head_description(scores: Mapping[str, float]) -> str:
    """Return a description of a head with these scores, which continues "this head ...": own_token, the metrics that
    were measured, and ov_copying if it was."""
    shares = {name: scores[name] for name in sorted(ATTENDED_TO.keys() & scores.keys(), key=lambda name: -scores[name])}
    if scores["entropy"] == scores["mean_distance"] == scores["own_token"] == 0:
        return "attends to nothing: all its weights are 0"
    targets = [f"{ATTENDED_TO[name]}: {share:.0%}" for name, share in shares.items() if share >= THRESHOLDS[name]]
    if targets:
        parts = [f"attends to {'; to '.join(targets)}"]
    elif scores["entropy"] >= EVENLY:
        parts = ["spreads its attention almost evenly over all visible tokens"]
    else:
        nearest = max(shares, key=lambda name: shares[name])
        distance = f"{scores['mean_distance']:.1f} tokens back on average"
        return f"has no clear target: attends {distance}, most to {ATTENDED_TO[nearest]}: {shares[nearest]:.0%}"
    copying = scores.get("ov_copying", 0.0)
    if abs(copying) >= COPIES:
        parts.append(f"makes the tokens it attends to {'more' if copying > 0 else 'less'} likely to come next")
    return "; ".join(parts)
