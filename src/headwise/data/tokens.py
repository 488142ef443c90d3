"""The tokens of one split, in one file or in several that are read as one.

tokens = open_tokens([Path("train-00000.bin"), Path("train-00001.bin")], "<u2")
tokens[3:99], tokens[indices], len(tokens)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np


class Shards:
    """Several arrays of tokens, read as one of shape [N]."""

    def __init__(self, parts: Sequence[np.ndarray]):
        self.parts = parts
        self.ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
        """Tokens from one position to another, or those at the positions of an array of any shape."""
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            assert step == 1, "tokens are sliced side by side"
            cuts = [(part, end - len(part)) for part, end in zip(self.parts, self.ends.tolist(), strict=True)]
            return np.concatenate([part[max(0, start - at) : max(0, stop - at)] for part, at in cuts])
        which = np.searchsorted(self.ends, index, side="right")
        found = np.empty(index.shape, dtype=self.parts[0].dtype)
        for number in np.unique(which):
            part, here = self.parts[number], which == number
            found[here] = part[index[here] - (self.ends[number] - len(part))]
        return found


Tokens = np.ndarray | Shards


def open_tokens(files: list[Path], dtype: str) -> Tokens:
    """The files as read-only memory maps."""
    parts = [np.memmap(file, dtype=dtype, mode="r") for file in files]
    return parts[0] if len(parts) == 1 else Shards(parts)


def read_tokens(files: list[Path], dtype: str, size: int) -> Iterator[np.ndarray]:
    """All tokens of the files in order, up to `size` at a time, without a map whose pages would stay in memory."""
    for file in files:
        with file.open("rb") as raw:
            while len(tokens := np.fromfile(raw, dtype=dtype, count=size)):
                yield tokens
