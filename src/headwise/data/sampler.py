"""Which windows of the text a training step sees: a function of (seed, step) and of nothing else.

So a resumed run sees what an uninterrupted one would have seen, and no state needs saving. An epoch is every window
once, side by side from a random first token, in a pseudo-random order that is computed, not stored.
"""

from __future__ import annotations

import numpy as np

from headwise.data.tokens import Tokens

ROUNDS = 6  # of the Feistel network; four already give a good permutation (Luby & Rackoff 1988)


def window_starts(seed: int, step: int, n_tokens: int, window: int, batch: int) -> np.ndarray:
    """Where the `batch` windows of a step start: [batch] positions at which `window` tokens fit. Windows share one
    token, the last of one and the first of the next, so that each token is predicted once in an epoch."""
    stride = window - 1
    per_epoch = max(1, (n_tokens - window) // stride)
    slack = n_tokens - window - (per_epoch - 1) * stride
    count = step * batch + np.arange(batch)  # windows seen before, over all epochs
    starts = np.empty(batch, dtype=np.int64)
    for epoch in np.unique(count // per_epoch):
        here = count // per_epoch == epoch
        rng = np.random.default_rng((seed, int(epoch)))
        first, keys = rng.integers(slack + 1), rng.integers(1 << 32, size=ROUNDS, dtype=np.uint64)
        starts[here] = first + stride * permuted(count[here] % per_epoch, per_epoch, keys)
    return starts


def permuted(index: np.ndarray, n: int, keys: np.ndarray) -> np.ndarray:
    """Where a pseudo-random permutation of range(n) takes each index: a Feistel network over the next power of four,
    repeated until the result is below n (Black & Rogaway 2002, cycle walking)."""
    half = np.uint64(max(1, ((n - 1).bit_length() + 1) // 2))
    low = (np.uint64(1) << half) - np.uint64(1)
    result = index.astype(np.uint64)
    outside = np.ones(len(result), dtype=bool)
    while outside.any():
        left, right = result[outside] >> half, result[outside] & low
        for key in keys:
            mixed = (right + key) * np.uint64(0x9E3779B97F4A7C15)  # wraps around on purpose
            mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
            left, right = right, left ^ (mixed >> np.uint64(32) & low)
        result[outside] = left << half | right
        outside = result >= n
    return result.astype(np.int64)


def windows_at(tokens: Tokens, starts: np.ndarray, window: int) -> np.ndarray:
    """The windows themselves, [batch, window] int64, in one indexed read."""
    return tokens[starts[:, None] + np.arange(window)].astype(np.int64)
