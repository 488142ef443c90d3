"""Tokenize a text, and print what is in it.

  headwise prepare data=files data.path=my.txt                      characters
  headwise prepare data=files data.path=texts tokenizer=bpe tokenizer.vocab_size=4096
  headwise prepare data=files data.path=texts plot=true             with a picture

The tokens go to data.cache_dir, where `headwise train` with the same choices reads them.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from headwise.config import PrepareConfig
from headwise.files import atomic_write
from headwise.launch import launch

if TYPE_CHECKING:
    from headwise.data.token_files import TokenFiles

N_FREQUENT, N_SAMPLE = 20, 200  # tokens in the list of the most frequent, and in the sample


def main(arguments: list[str] | None = None) -> None:
    """Prepare a text with the given arguments, by default those of the command line."""
    launch(run, "prepare", __doc__ or "", arguments)


def run(config: PrepareConfig) -> None:
    """Prepare the text of a configuration, and print a report."""
    from headwise.data.sources import validate_text_choices
    from headwise.data.token_files import prepare
    from headwise.registry import load_plugins

    load_plugins(config.plugins)
    validate_text_choices(config.data, config.tokenizer)
    token_files = prepare(config.data, config.tokenizer)
    print(describe(token_files))
    if config.plot:
        print(f"picture          {plot(token_files)}")


def token_counts(token_files: "TokenFiles") -> np.ndarray:
    """Return how often each token of the vocabulary occurs in the training text, [V]."""
    seen = np.zeros(token_files.tokenizer.vocab_size, dtype=np.int64)
    for tokens in token_files.chunks("train"):
        seen += np.bincount(tokens, minlength=len(seen))
    return seen


def describe(token_files: "TokenFiles") -> str:
    """Return a report of sizes, frequencies of tokens and a sample of the text, in lines."""
    manifest, tokenizer, seen = token_files.manifest, token_files.tokenizer, token_counts(token_files)
    most = seen.argsort(kind="stable")[::-1][:N_FREQUENT]
    named = "  ".join(f"{tokenizer.label(int(i))} {seen[i] / seen.sum():.1%}" for i in most if seen[i])
    lines = [f"folder           {token_files.folder}"]
    for name in ("documents", "characters", "bytes", "tokens"):
        train, val = (manifest[name][split] for split in ("train", "val"))
        both = ", with one that the split divides" if name == "documents" and manifest["cut"] else ""
        lines.append(f"{name:<16} {train:,} for training, {val:,} held out{both}")
    lines += [
        f"bytes per token  {token_files.bytes_per_token('train'):.3f}",
        f"vocabulary       {tokenizer.vocab_size:,} tokens; {int((seen > 0).sum()):,} occur in the training text",
        f"most frequent    {named}",
        "sample",
        *(f"    {line}" for line in tokenizer.decode(token_files.tokens("train")[:N_SAMPLE].tolist()).splitlines()),
    ]
    return "\n".join(lines)


def plot(token_files: "TokenFiles") -> Path:
    """Draw the frequencies of tokens and the lengths of documents, and return the picture's path beside the tokens."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    seen = np.sort(token_counts(token_files))[::-1]
    left.loglog(np.arange(1, len(seen) + 1)[seen > 0], seen[seen > 0])
    left.set(title="Frequency of each token in the training text", xlabel="rank", ylabel="occurrences")
    sizes = document_lengths(token_files)
    if len(sizes) > 1:
        width = -(-int(sizes.max() - sizes.min() + 1) // 50)  # a whole number of tokens, as every length is
        right.hist(sizes, bins=np.arange(sizes.min(), sizes.max() + width + 1, width))
        right.set(title="Length of documents", xlabel="tokens", ylabel="documents")
    else:
        right.set_axis_off()
        right.text(0.5, 0.5, f"a single document of {sizes[0]:,} tokens", ha="center", va="center")
    with atomic_write(token_files.folder / "tokens.png") as temporary:
        figure.savefig(temporary, format="png", dpi=100)
    return token_files.folder / "tokens.png"


def document_lengths(token_files: "TokenFiles") -> np.ndarray:
    """Return the tokens of each document that ends in the training text."""
    end, at, ends = token_files.tokenizer.end_of_text, 0, [np.array([-1])]
    for tokens in token_files.chunks("train"):
        ends.append(at + np.flatnonzero(tokens == end))
        at += len(tokens)
    return np.diff(np.concatenate(ends)) if end is not None else np.array([at])
