"""Text -> tokens in memory-mapped files, once.

    packed = pack(text, tokenizer_kind="char", vocab_size=1024, cache_dir="data/cache")
    packed.tokens("train")      # numpy uint16 or uint32, read from disk as it is used

A packed text is a folder named by a hash of all that made it (text, split, tokenizer settings), so a changed
text or setting finds another folder:

    train.bin  val.bin          token ids, little-endian, nothing else
    tokenizer.json
    manifest.json               what made it, counts, a checksum of every file; written last
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from itertools import chain
from pathlib import Path

import numpy as np

from headwise.cli import say
from headwise.data.text import Text
from headwise.files import write_text
from headwise.stream import END, Source, Stream, pieces, source_of
from headwise.tokenizer import Tokenizer, train_tokenizer

FORMAT = 2  # raise it when the meaning of these files changes
FILES = ("train.bin", "val.bin", "tokenizer.json")
SAMPLE = 1 << 26  # characters that merges are learned from, at most


class Packed:
    """A packed text on disk."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.manifest: dict = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        self.tokenizer = Tokenizer.from_json((folder / "tokenizer.json").read_text(encoding="utf-8"))

    @property
    def key(self) -> str:
        """The hash that names this text, split and tokenizer."""
        return self.folder.name

    def tokens(self, split: str) -> np.ndarray:
        """The token ids of a split (train, val) as a read-only memory map."""
        return np.memmap(self.folder / f"{split}.bin", dtype=self.manifest["dtype"], mode="r")

    def bytes_per_token(self, split: str) -> float:
        """UTF-8 bytes for each token of the split, which turns nats per token into bits per byte."""
        return self.manifest["bytes"][split] / self.manifest["tokens"][split]


def is_whole(folder: Path) -> bool:
    """Whether a folder's manifest can be read and every file is the one it describes."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        return all(checksum(folder / name) == manifest["sha256"][name] for name in FILES)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def pack(
    text: Text, tokenizer_kind: str, vocab_size: int, cache_dir: str | Path, tokenizer: Tokenizer | None = None
) -> Packed:
    """The packed form of `text`: the one in `cache_dir` if it was made of the same text with the same settings,
    or a new one, which appears there whole or not at all. A `tokenizer` that exists already is used as it is."""
    settings = {"format": FORMAT, "tokenizer": tokenizer_kind, "tokenizers": version("tokenizers")}
    if tokenizer:
        settings["tokenizer"] = hashlib.sha256(tokenizer.to_json().encode()).hexdigest()
    elif tokenizer_kind != "char":
        settings["vocab_size"] = vocab_size
    digests = {split: source_of(content).fingerprint for split, content in text._asdict().items()}
    key = hashlib.sha256(json.dumps([settings, digests], sort_keys=True).encode()).hexdigest()[:16]
    folder = Path(cache_dir) / key
    if is_whole(folder):
        return Packed(folder)
    if folder.exists():
        say(f"{folder} is damaged; packing the text again")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{key}.", dir=folder.parent))
    try:
        with suppress(FileNotFoundError):
            folder.rename(temporary / "damaged")
        write_packed(temporary, text, tokenizer or learn_tokenizer(text, tokenizer_kind, vocab_size), settings)
        shutil.rmtree(temporary / "damaged", ignore_errors=True)
        with suppress(FileExistsError):  # another process has just made the same
            rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Packed(folder)


def learn_tokenizer(text: Text, kind: str, vocab_size: int) -> Tokenizer:
    """A tokenizer made from the text. Characters of the held-out part count as known; merges are learned from the
    training part alone, of a long one from pieces all over it."""
    say(f"making a tokenizer of kind {kind} from the text")
    train, val = map(source_of, text)
    documents = max(train.documents, val.documents)
    if kind == "char":
        both = replace(train, read=lambda: chain(train.read(), val.read()))
        return train_tokenizer(kind, both, documents=documents)
    tokenizer = train_tokenizer(kind, sampled(train), vocab_size, documents)
    if kind == "bpe" and tokenizer.vocab_size < vocab_size:
        say(f"the text has merges for {tokenizer.vocab_size} tokens, fewer than tokenizer.vocab_size={vocab_size}")
    return tokenizer


def sampled(source: Source) -> Source:
    """Every n-th piece of a text, so that they have SAMPLE characters at most."""
    every = -(-source.characters // SAMPLE)

    def read() -> Stream:
        return (piece for i, piece in enumerate(p for p in pieces(source.read()) if p) if i % every == 0)

    return source if every <= 1 else replace(source, read=read)


def write_packed(folder: Path, text: Text, tokenizer: Tokenizer, settings: dict) -> None:
    """Tokenize both splits into `folder` and describe them in its manifest."""
    halves = {split: source_of(content) for split, content in text._asdict().items()}
    total = sum(source.characters for source in halves.values())
    say(f"packing {total:,} characters")
    dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
    documents, tokens, characters, sizes = (dict.fromkeys(halves, 0) for _ in range(4))

    def counted(split: str) -> Stream:
        last: str | None = END
        for last in halves[split].read():
            documents[split] += last is END
            yield last
        documents[split] += last is not END  # cut off by the split

    began = told = time.monotonic()
    for split in halves:
        with (folder / f"{split}.bin").open("wb") as file:
            for piece, ids in tokenizer.encode_stream(counted(split)):
                np.asarray(ids, dtype=dtype).tofile(file)
                tokens[split] += len(ids)
                characters[split] += len(piece)
                sizes[split] += len(piece.encode())
                if time.monotonic() - told > 2:
                    told = time.monotonic()
                    done, spent = sum(characters.values()), told - began
                    left = (total - done) * spent / done
                    say(f"{done / total:.0%} packed, {done / spent:,.0f} characters a second, {left:.0f} s left")
    write_text(folder / "tokenizer.json", tokenizer.to_json())
    manifest = {
        "settings": settings,
        "dtype": dtype.str,
        "vocab_size": tokenizer.vocab_size,
        "documents": documents,
        "tokens": tokens,
        "characters": characters,
        "bytes": sizes,
        "sha256": {name: checksum(folder / name) for name in FILES},
    }
    write_text(folder / "manifest.json", json.dumps(manifest, indent=2) + "\n")
    os.chmod(folder, 0o755)  # mkdtemp made it private


def rename(source: Path, target: Path) -> None:
    """Rename a folder. Raises FileExistsError, on every system alike, if the target is there."""
    try:
        source.rename(target)
    except OSError as error:  # Linux says ENOTEMPTY
        if target.exists():
            raise FileExistsError(target) from error
        raise


def checksum(file: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with file.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
