"""The batches of training and of validation, each a pair of token ids and next-token targets, both [B, T].

They are plain iterables: a batch is one indexed read of a memory map, so there is nothing for a DataLoader's
worker processes to do.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from headwise.data.sampler import window_starts, windows_at
from headwise.data.tokens import Tokens
from headwise.model.gpt import IGNORE

Batch = tuple[Tensor, Tensor]
# A validation batch, whatever data.batch_size is, so that the loss does not depend on it; and at most so many logits.
VAL_TOKENS, VAL_LOGITS = 8192, 1 << 25
AHEAD = 64  # steps whose windows are worked out at once, which costs hardly more than those of one


class TrainBatches:
    """Every micro-batch of a run, from `first_step` on. A step has `accumulate` of them for each of `devices`, and each
    device takes its own."""

    def __init__(self, tokens: Tokens, block_size: int, batch: int, accumulate: int, seed: int):
        self.tokens, self.block_size, self.batch = tokens, block_size, batch
        self.accumulate, self.seed = accumulate, seed
        self.first_step, self.last_step = 0, 0
        self.rank, self.devices = 0, 1

    def __len__(self) -> int:
        return self.last_step * self.accumulate

    def __iter__(self) -> Iterator[Batch]:
        window, count = self.block_size + 1, self.accumulate * self.devices
        planned, starts = -1, np.empty((0, 0, 0), dtype=np.int64)
        for step in range(self.first_step, self.last_step):
            if step // AHEAD != planned:  # the sequence of windows is one, whatever is asked for at a time
                planned = step // AHEAD
                every = window_starts(self.seed, planned, len(self.tokens), window, AHEAD * self.batch * count)
                starts = every.reshape(AHEAD, count, self.batch)
            for micro in starts[step % AHEAD, self.rank :: self.devices]:
                tokens = torch.from_numpy(windows_at(self.tokens, micro, window))
                yield tokens[:, :-1], tokens[:, 1:]


class ValBatches:
    """A whole split in windows side by side: every token but the first is predicted exactly once. The last window is
    filled up with targets that do not count. Each of `devices` takes every devices-th batch, an empty one where there
    is none left for it, so that all take as many."""

    def __init__(self, tokens: Tokens, block_size: int, vocab_size: int):
        self.tokens, self.block_size = tokens, block_size
        self.rows = max(1, min(VAL_TOKENS, VAL_LOGITS // vocab_size) // block_size)
        self.windows = -(-(len(tokens) - 1) // block_size)
        self.rank, self.devices = 0, 1

    def __len__(self) -> int:
        return -(-self.windows // (self.rows * self.devices))

    def __iter__(self) -> Iterator[Batch]:
        return (self.batch(index * self.devices + self.rank) for index in range(len(self)))

    def batch(self, index: int) -> Batch:
        """The index-th batch of windows."""
        first = index * self.rows * self.block_size
        rows = min(self.rows, self.windows - index * self.rows)
        if rows <= 0:
            return torch.zeros(1, 1, dtype=torch.long), torch.full((1, 1), IGNORE)
        chunk = torch.from_numpy(self.tokens[first : first + rows * self.block_size + 1].astype(np.int64))
        missing = rows * self.block_size + 1 - len(chunk)
        inputs = torch.cat((chunk[:-1], chunk.new_zeros(missing)))
        targets = torch.cat((chunk[1:], chunk.new_full((missing,), IGNORE)))
        return inputs.view(rows, -1), targets.view(rows, -1)
