"""The windows of tokens that each training step uses, and those that cover a split for validation.

    batches = TrainBatches(token_files.tokens("train"), block_size=128, batch_size=32, seed=0)
    for inputs, targets in batches:     # int64 [B, T]; targets are the next tokens

The windows of a step are a function of (seed, step) and of nothing else: a resumed run sees the same windows as an
uninterrupted one, and no state is saved. In a pass over the text every window is used once; windows lie side by side
from a random first token, in a pseudo-random order that is computed, not stored.

The batches are plain iterables, not a DataLoader: a batch is one indexed read of a memory map, too little work for
worker processes.

Dimensions: B windows in a batch, T block_size. A window has T + 1 tokens: T inputs, and the targets one token later.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from headwise.model.gpt import IGNORE

Batch = tuple[Tensor, Tensor]
ROUNDS = 6  # of the Feistel network; four already give a good permutation (Luby & Rackoff 1988)
# A validation batch has VAL_TOKENS tokens, and fewer if the logits would be more than VAL_LOGITS numbers. It does not
# depend on data.batch_size, so that the loss does not either.
VAL_TOKENS, VAL_LOGITS = 8192, 1 << 25
STEPS_AHEAD = 64  # steps whose windows are computed together, which takes hardly longer than for one


class ShardedTokens:
    """Several arrays of tokens, read as one of shape [N]."""

    def __init__(self, shards: Sequence[np.ndarray]):
        self.shards = shards
        self.ends = np.cumsum([len(shard) for shard in shards])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
        """Return the tokens of a slice, or those at the positions in an array of any shape."""
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            assert step == 1, "a slice of tokens has step 1"
            begins = [(shard, end - len(shard)) for shard, end in zip(self.shards, self.ends.tolist(), strict=True)]
            return np.concatenate([shard[max(0, start - begin) : max(0, stop - begin)] for shard, begin in begins])
        owner = np.searchsorted(self.ends, index, side="right")
        found = np.empty(index.shape, dtype=self.shards[0].dtype)
        for number in np.unique(owner):
            shard, here = self.shards[number], owner == number
            found[here] = shard[index[here] - (self.ends[number] - len(shard))]
        return found


Tokens = np.ndarray | ShardedTokens


def open_tokens(files: list[Path], dtype: str) -> Tokens:
    """Return the tokens of the files, in order, as read-only memory maps."""
    shards = [np.memmap(file, dtype=dtype, mode="r") for file in files]
    return shards[0] if len(shards) == 1 else ShardedTokens(shards)


def window_starts(seed: int, step: int, n_tokens: int, window: int, batch: int) -> np.ndarray:
    """Return the first positions of the `batch` windows of a step, [batch] int64. Adjacent windows share one token, the
    last of one and the first of the next, so that in a pass over the text each token is predicted once, except for less
    than two windows of tokens at the ends of the text."""
    stride = window - 1
    per_pass = max(1, (n_tokens - window) // stride)
    slack = n_tokens - window - (per_pass - 1) * stride
    index = step * batch + np.arange(batch)  # of each window among all that training uses
    starts = np.empty(batch, dtype=np.int64)
    for text_pass in np.unique(index // per_pass):
        here = index // per_pass == text_pass
        rng = np.random.default_rng((seed, int(text_pass)))
        first = rng.integers(slack + 1)
        keys = rng.integers(1 << 32, size=ROUNDS, dtype=np.uint64)
        starts[here] = first + stride * permuted(index[here] % per_pass, per_pass, keys)
    return starts


def permuted(index: np.ndarray, n: int, keys: np.ndarray) -> np.ndarray:
    """Return the images of `index` under a pseudo-random permutation of range(n): a Feistel network over the next power
    of four, repeated until the result is below n (Black & Rogaway 2002, cycle walking)."""
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
    """Return the windows that begin at `starts`, [batch, window] int64, in one indexed read."""
    return tokens[starts[:, None] + np.arange(window)].astype(np.int64)


class TrainBatches:
    """The micro-batches of one epoch of Lightning's, from the step that `next_step()` returns to the epoch's end.

    A step has `accumulate` micro-batches for each of `devices`; this iterable yields those of device `rank`. An epoch
    has `n_steps` optimizer steps, by default as many as the tokens fill.
    """

    def __init__(
        self,
        tokens: Tokens,
        block_size: int,
        batch_size: int,
        seed: int,
        accumulate: int = 1,
        rank: int = 0,
        devices: int = 1,
        n_steps: int | None = None,
        next_step: Callable[[], int] = lambda: 0,
    ):
        self.tokens, self.window, self.batch_size, self.seed = tokens, block_size + 1, batch_size, seed
        self.accumulate, self.rank, self.devices, self.next_step = accumulate, rank, devices, next_step
        tokens_per_step = batch_size * accumulate * devices * block_size
        self.n_steps = n_steps or max(1, len(tokens) // tokens_per_step)

    def __len__(self) -> int:
        return self.n_steps * self.accumulate

    def __iter__(self) -> Iterator[Batch]:
        first = self.next_step()
        return self.steps(first, (first // self.n_steps + 1) * self.n_steps)

    def steps(self, first: int, stop: int) -> Iterator[Batch]:
        """Yield the micro-batches of the steps from `first` on, before `stop`."""
        per_step = self.accumulate * self.devices
        shape = (STEPS_AHEAD, per_step, self.batch_size)
        group, starts = -1, np.empty(shape, dtype=np.int64)
        for step in range(first, stop):
            if step // STEPS_AHEAD != group:
                group = step // STEPS_AHEAD  # a group of steps uses the windows of one step with a larger batch
                starts = window_starts(self.seed, group, len(self.tokens), self.window, math.prod(shape)).reshape(shape)
            for micro in starts[step % STEPS_AHEAD, self.rank :: self.devices]:
                tokens = torch.from_numpy(windows_at(self.tokens, micro, self.window))
                yield tokens[:, :-1], tokens[:, 1:]


class ValBatches:
    """A whole split in adjacent windows: every token but the first is predicted exactly once. Targets that fill up the
    last window are IGNORE. Device `rank` of `devices` gets every devices-th batch, and a batch without targets where
    none is left, so that all devices get the same number."""

    def __init__(self, tokens: Tokens, block_size: int, vocab_size: int, rank: int = 0, devices: int = 1):
        self.tokens, self.block_size, self.rank, self.devices = tokens, block_size, rank, devices
        self.rows = max(1, min(VAL_TOKENS, VAL_LOGITS // vocab_size) // block_size)
        self.windows = -(-(len(tokens) - 1) // block_size)

    def __len__(self) -> int:
        return -(-self.windows // (self.rows * self.devices))

    def __iter__(self) -> Iterator[Batch]:
        return (self.batch(index * self.devices + self.rank) for index in range(len(self)))

    def batch(self, index: int) -> Batch:
        """Return the index-th batch of windows."""
        first = index * self.rows * self.block_size
        rows = min(self.rows, self.windows - index * self.rows)
        if rows <= 0:
            return torch.zeros(1, 1, dtype=torch.long), torch.full((1, 1), IGNORE)
        tokens = torch.from_numpy(self.tokens[first : first + rows * self.block_size + 1].astype(np.int64))
        missing = rows * self.block_size + 1 - len(tokens)
        inputs = torch.cat((tokens[:-1], tokens.new_zeros(missing)))
        targets = torch.cat((tokens[1:], tokens.new_full((missing,), IGNORE)))
        return inputs.view(rows, -1), targets.view(rows, -1)
