"""Which windows of the text a training step sees: a function of (seed, step) and of nothing else.

So a resumed run sees what an uninterrupted one would have seen, and no state needs saving.
"""

from __future__ import annotations

import numpy as np


def window_starts(seed: int, step: int, n_tokens: int, window: int, batch: int) -> np.ndarray:
    """Where the `batch` windows of a step start: [batch] positions at which `window` tokens fit, drawn with
    replacement, each as likely as any other."""
    return np.random.default_rng((seed, step)).integers(0, n_tokens - window + 1, size=batch)


def windows_at(tokens: np.ndarray, starts: np.ndarray, window: int) -> np.ndarray:
    """The windows themselves, [batch, window] int64, in one indexed read."""
    return tokens[starts[:, None] + np.arange(window)].astype(np.int64)
