"""A text made ready for training, as a configuration asks for it, and what was made, told.

packed = prepare(config.data, config.tokenizer)
print(report(packed))
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from headwise.checkpoint import open_tokenizer
from headwise.config import DataConfig, TokenizerConfig
from headwise.data.sources import SOURCES, SPLIT_BY, read_text
from headwise.data.token_files import TokenFiles, pack
from headwise.errors import choose
from headwise.files import atomic_write
from headwise.stream import pieces, stream_of
from headwise.tokenizer import TOKENIZERS, Tokenizer

SHOWN, SAMPLE = 20, 200  # tokens named as the most frequent; tokens of the sample


def check(data: DataConfig, tokenizer: TokenizerConfig) -> None:
    """Raise UserError for a source or a kind there is not."""
    choose("tokenizer.kind", tokenizer.kind, {**TOKENIZERS, "file": None})
    choose("data.source", data.source, SOURCES)
    choose("data.split_by", data.split_by, SPLIT_BY)


def prepare(data: DataConfig, wanted: TokenizerConfig, tokenizer: Tokenizer | None = None) -> TokenFiles:
    """The text that `data` names as tokens: of `tokenizer` if it is given, else of the one that is wanted."""
    text = read_text(data)
    if not tokenizer and wanted.kind == "file":
        tokenizer = open_tokenizer(wanted.path)
        first = next(piece for piece in pieces(stream_of(text.train)) if piece)
        tokenizer.check_exact(first, f"tokenizer.path={wanted.path}")
    return pack(text, wanted.kind, wanted.vocab_size, data.cache_dir, tokenizer, data.num_proc)


def counts(packed: TokenFiles) -> np.ndarray:
    """How often each token of the vocabulary stands in the training part, [V]."""
    seen = np.zeros(packed.tokenizer.vocab_size, dtype=np.int64)
    for tokens in packed.read("train"):
        seen += np.bincount(tokens, minlength=len(seen))
    return seen


def report(packed: TokenFiles) -> str:
    """What was made, in lines."""
    manifest, tokenizer, seen = packed.manifest, packed.tokenizer, counts(packed)
    most = seen.argsort(kind="stable")[::-1][:SHOWN]
    named = "  ".join(f"{tokenizer.label(int(i))} {seen[i] / seen.sum():.1%}" for i in most if seen[i])
    lines = [f"folder           {packed.folder}"]
    for name in ("documents", "characters", "bytes", "tokens"):
        train, val = (manifest[name][split] for split in ("train", "val"))
        both = ", one of them cut in two" if name == "documents" and manifest["cut"] else ""
        lines.append(f"{name:<16} {train:,} for training, {val:,} held out{both}")
    lines += [
        f"bytes per token  {packed.bytes_per_token('train'):.3f}",
        f"vocabulary       {tokenizer.vocab_size:,} tokens; {int((seen > 0).sum()):,} stand in the training part",
        f"most frequent    {named}",
        "sample",
        *(f"    {line}" for line in tokenizer.decode(packed.tokens("train")[:SAMPLE].tolist()).splitlines()),
    ]
    return "\n".join(lines)


def plot(packed: TokenFiles) -> Path:
    """A picture of how frequent tokens and how long documents are, beside the tokens."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    seen = np.sort(counts(packed))[::-1]
    left.loglog(np.arange(1, len(seen) + 1)[seen > 0], seen[seen > 0])
    left.set(title="How often each token stands in the training part", xlabel="rank", ylabel="times")
    sizes = lengths(packed)
    if len(sizes) > 1:
        width = -(-int(sizes.max() - sizes.min() + 1) // 50)  # a whole number of tokens, as every length is
        right.hist(sizes, bins=np.arange(sizes.min(), sizes.max() + width + 1, width))
        right.set(title="How long documents are", xlabel="tokens", ylabel="documents")
    else:
        right.set_axis_off()
        right.text(0.5, 0.5, f"a single document of {sizes[0]:,} tokens", ha="center", va="center")
    with atomic_write(packed.folder / "tokens.png") as temporary:
        figure.savefig(temporary, format="png", dpi=100)
    return packed.folder / "tokens.png"


def lengths(packed: TokenFiles) -> np.ndarray:
    """Tokens of each document of the training part."""
    end, at, ends = packed.tokenizer.end_of_text, 0, [np.array([-1])]
    for tokens in packed.read("train"):
        ends.append(at + np.flatnonzero(tokens == end))
        at += len(tokens)
    return np.diff(np.concatenate(ends)) if end is not None else np.array([at])
