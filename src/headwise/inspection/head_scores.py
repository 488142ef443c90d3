"""What each head does, as numbers: pure functions of what capture gives.

Of a pattern A [..., T, T], T >= 2, row i the query, column j <= i the key, each gives [...]: one number for each head,
or whatever else stands before the last two dimensions. Row 0, which can only look at itself, counts for
distances alone. What needs the model as well is in effects.py.

Dimensions: B batch, H heads, G key/value heads, T tokens, D head width, C = n_embd.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from headwise.inspection.hooks import AttentionMap


def entropy(pattern: Tensor) -> Tensor:
    """How evenly a query spreads its attention: mean of H_i / ln(i + 1), H_i = -sum_j A_ij ln A_ij. 0: all on one
    key; 1: the same on every key it may see. Each row is divided by its own maximum, since early rows see few."""
    rows = torch.special.entr(pattern).sum(-1)[..., 1:]
    most = torch.arange(2, pattern.size(-1) + 1, device=pattern.device, dtype=pattern.dtype).log()
    return (rows / most).mean(-1)


def mean_distance(pattern: Tensor) -> Tensor:
    """How many tokens back the attention goes: sum A_ij (i - j) / sum A_ij over all rows (Vig & Belinkov 2019)."""
    place = torch.arange(pattern.size(-1), device=pattern.device, dtype=pattern.dtype)
    back = place[:, None] - place  # i - j
    return (pattern * back).sum((-2, -1)) / pattern.sum((-2, -1)).clamp(min=torch.finfo(pattern.dtype).tiny)


def mean_distance_without_first(pattern: Tensor) -> Tensor:
    """mean_distance of the weights on all keys but the first, where attention goes that has nowhere to go."""
    return mean_distance(torch.cat((torch.zeros_like(pattern[..., :1]), pattern[..., 1:]), dim=-1))


def previous_token(pattern: Tensor) -> Tensor:
    """Mean weight on the token just before the query: mean of A[i, i-1]."""
    return pattern.diagonal(-1, -2, -1).mean(-1)


def own_token(pattern: Tensor) -> Tensor:
    """Mean weight on the query's own token: mean of A[i, i]."""
    return pattern.diagonal(0, -2, -1)[..., 1:].mean(-1)


def first_token(pattern: Tensor) -> Tensor:
    """Mean weight on the sequence's first token, the attention sink (Xiao et al. 2023): mean of A[i, 0]."""
    return pattern[..., 1:, 0].mean(-1)


def weight_on(pattern: Tensor, keys: Tensor) -> Tensor:
    """Mean weight on the marked keys [..., T, T], over the rows that have any; 0 where none has."""
    rows = keys.any(-1)
    return ((pattern * keys).sum(-1) * rows).sum(-1) / rows.sum(-1).clamp(min=1)


def duplicate_token(pattern: Tensor, ids: Tensor) -> Tensor:
    """Mean weight on earlier occurrences of the query's own token, over the rows with one. ids [T], or [B, T] for a
    pattern [B, H, T, T]."""
    same = ids[..., :, None] == ids[..., None, :]
    return weight_on(pattern, per_head(pattern, same.tril(-1)))


def induction(pattern: Tensor, ids: Tensor) -> Tensor:
    """Mean weight on the tokens that came after earlier occurrences of the query's token, prefix matching (Olsson et
    al. 2022); only rows whose token came before count. ids [T], or [B, T] for a pattern [B, H, T, T]."""
    same = (ids[..., :, None] == ids[..., None, :]).tril(-1)
    return weight_on(pattern, per_head(pattern, torch.cat((torch.zeros_like(same[..., :1]), same[..., :-1]), dim=-1)))


def per_head(pattern: Tensor, keys: Tensor) -> Tensor:
    """Keys [T, T] or [B, T, T] in a shape that meets the pattern's."""
    return keys.unsqueeze(-3) if keys.dim() == 3 else keys


OF_PATTERN: dict[str, Callable[[Tensor], Tensor]] = {
    "entropy": entropy,
    "mean_distance": mean_distance,
    "mean_distance_without_first": mean_distance_without_first,
    "previous_token": previous_token,
    "first_token": first_token,
}
OF_REPEATS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"duplicate_token": duplicate_token, "induction": induction}
METRICS = [*OF_PATTERN, *OF_REPEATS]
FORMED = {  # shares of its attention from which on a head is called one of its kind
    "previous_token": 0.5,
    "own_token": 0.5,
    "first_token": 0.3,
    "duplicate_token": 0.4,
    "induction": 0.4,
}


def head_scores(pattern: Tensor, repeated: Tensor | None = None) -> dict[str, Tensor]:
    """Every metric of the pattern, by name; where its tokens are `repeated` random ones, those that need them too.
    Of rows as shares."""
    pattern = shares(pattern)
    scores = {name: metric(pattern) for name, metric in OF_PATTERN.items()}
    if repeated is not None:
        scores |= {name: metric(pattern, repeated) for name, metric in OF_REPEATS.items()}
    return scores


def shares(pattern: Tensor) -> Tensor:
    """Rows as parts of their sum, which is 1 with softmax but not with ReLU; rows of zeros stay so."""
    return pattern / pattern.sum(-1, keepdim=True).clamp(min=torch.finfo(pattern.dtype).tiny)


def value_norms(seen: AttentionMap) -> Tensor:
    """The norm of v_j W_O: how much a head has to give of each token, [B, H, T]."""
    group = seen.q.size(1) // seen.v.size(1)
    return (seen.v.repeat_interleave(group, dim=1) @ seen.w_o).norm(dim=-1)


def value_weighted(seen: AttentionMap) -> Tensor:
    """A_ij times the norm of v_j W_O: how much of token j reaches token i, [B, H, T, T] (Kobayashi et al. 2020). A head
    that rests on the first token gives it weight and takes nothing from it."""
    return seen.pattern * value_norms(seen).unsqueeze(-2)


def rollout(patterns: Tensor) -> Tensor:
    """Patterns of all layers [L, ..., H, T, T] -> [..., T, T], how much of each token is in each token's stream at the
    end if every layer is half itself and half the mean of its heads (Abnar & Zuidema 2020). Under a causal mask the
    first token gains from layer to layer whatever the heads do; compare rows with that in mind."""
    every = patterns.mean(-3)
    mixed = (every + torch.eye(every.size(-1), device=every.device, dtype=every.dtype)) / 2
    flow = mixed[0]
    for layer in mixed[1:]:
        flow = layer @ flow
    return flow


EVEN = 0.9  # entropy from which on attention is spread evenly
COPIES = 0.5  # copying from which on it is worth a word
ATTENDED_TO = {  # what a share of the attention goes to
    "previous_token": "the previous token",
    "own_token": "the token itself",
    "first_token": "the first token",
    "duplicate_token": "the same token earlier",
    "induction": "what came after the same token earlier",
}
REMARKS = {
    "first_token": ", as heads do that find nothing to take",
    "duplicate_token": " where tokens repeat",
    "induction": " where tokens repeat: induction",
}


def head_description(scores: Mapping[str, float]) -> str:
    """Return in words what a head with these scores seems to do. `scores` has own_token, those of METRICS that were
    measured, and ov_copying if it was."""
    names = sorted(ATTENDED_TO.keys() & scores.keys(), key=lambda name: -scores[name])
    parts = {name: scores[name] for name in names}
    if scores["entropy"] == scores["mean_distance"] == scores["own_token"] == 0:
        return "looks at nothing: all its weights are 0"
    said = [
        f"looks at {ATTENDED_TO[name]} {share:.0%} of the time{REMARKS.get(name, '')}"
        for name, share in parts.items()
        if share >= FORMED[name]
    ]
    if not said and scores["entropy"] >= EVEN:
        said = ["spreads its attention almost evenly over all it may see"]
    if not said:
        nearest = max(parts, key=lambda name: parts[name])
        back = f"{scores['mean_distance']:.1f} tokens back on average"
        return f"not clear: looks {back}, {parts[nearest]:.0%} of the time at {ATTENDED_TO[nearest]}"
    copying = scores.get("ov_copying", 0.0)
    if abs(copying) >= COPIES:
        said.append(f"makes what it reads {'likelier' if copying > 0 else 'less likely'} to come next")
    return "; ".join(said)
