"""What each head does, as numbers between 0 and 1.

Every metric is a pure function of the pattern A [..., T, T], T >= 2, row i the query, column j <= i the key, and
gives [...]: one number for each head, or whatever else stands before the last two dimensions. Means are over the
rows i >= 1, since row 0 can only look at itself.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def entropy(pattern: Tensor) -> Tensor:
    """How evenly a query spreads its attention: mean of H_i / ln(i + 1), H_i = -sum_j A_ij ln A_ij. 0: all on one
    key; 1: the same on every key it may see. Each row is divided by its own maximum, since early rows see few."""
    rows = torch.special.entr(pattern).sum(-1)[..., 1:]
    most = torch.arange(2, pattern.size(-1) + 1, device=pattern.device, dtype=pattern.dtype).log()
    return (rows / most).mean(-1)


def previous_token(pattern: Tensor) -> Tensor:
    """Mean weight on the token just before the query: mean of A[i, i-1]."""
    return pattern.diagonal(-1, -2, -1).mean(-1)


def first_token(pattern: Tensor) -> Tensor:
    """Mean weight on the sequence's first token, the attention sink (Xiao et al. 2023): mean of A[i, 0]."""
    return pattern[..., 1:, 0].mean(-1)


METRICS: dict[str, Callable[[Tensor], Tensor]] = {
    "entropy": entropy,
    "previous_token": previous_token,
    "first_token": first_token,
}


def head_scores(pattern: Tensor) -> dict[str, Tensor]:
    """Every metric of the pattern, by name."""
    return {name: metric(pattern) for name, metric in METRICS.items()}
