"""Text -> tokens in memory-mapped files, once.

    packed = pack(text, tokenizer_kind="char", vocab_size=1024, cache_dir="data/cache")
    packed.tokens("train")      # numpy uint16 or uint32, read from disk as it is used

A packed text is a folder named by a hash of all that made it (text, split, tokenizer settings), so a changed
text or setting finds another folder:

    train-00000.bin ...  val-00000.bin ...      token ids, little-endian, nothing else
    tokenizer.json
    manifest.json                               what made it, counts, a checksum of every file; written last

While it is made it is a hidden folder, which a lock keeps for one process. One that was interrupted is gone on with
from its last whole shard.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import chain, islice, takewhile
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from headwise.console import Progress, say
from headwise.data.encoding import Batch, encoded
from headwise.data.sources import Text
from headwise.data.tokens import Tokens, open_tokens, read_tokens
from headwise.errors import UserError, require
from headwise.files import write_text
from headwise.stream import END, Source, Stream, length, pieces, source_of
from headwise.tokenizer import Tokenizer, batches, train_tokenizer

FORMAT = 3  # raise it when the meaning of these files changes
SPLITS = ("train", "val")
NEEDED = {"text", "cut", "documents", "tokens", "characters", "bytes", "dtype", "vocab_size", "shards", "files"}
SAMPLE = 1 << 26  # characters that merges are learned from, at most
SHARD = 1 << 27  # tokens of a file, or a few more
READ = 1 << 22  # tokens read at a time


class TokenFiles:
    """A packed text on disk."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.manifest: dict = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        self.tokenizer = Tokenizer.from_json((folder / "tokenizer.json").read_text(encoding="utf-8"))

    @property
    def key(self) -> str:
        """The hash that names this text, split and tokenizer."""
        return self.folder.name

    def tokens(self, split: str) -> Tokens:
        """The token ids of a split (train, val), read-only memory maps, [N]."""
        return open_tokens(self.files(split), self.manifest["dtype"])

    def read(self, split: str) -> Iterator[np.ndarray]:
        """The token ids of a split from first to last, some millions at a time."""
        return read_tokens(self.files(split), self.manifest["dtype"], READ)

    def files(self, split: str) -> list[Path]:
        """Where they are."""
        shards = [shard for shard in self.manifest["shards"] if shard["split"] == split and shard["tokens"]]
        return [self.folder / shard["file"] for shard in shards]

    def bytes_per_token(self, split: str) -> float:
        """UTF-8 bytes for each token of the split, which turns nats per token into bits per byte."""
        return self.manifest["bytes"][split] / self.manifest["tokens"][split]


@dataclass
class Shard:
    """A file of tokens, and what it was made of."""

    file: str
    split: str
    batches: int = 0
    tokens: int = 0
    documents: int = 0
    characters: int = 0
    bytes: int = 0
    sha256: str = ""
    last: bool = False  # of its split
    cut: bool = False  # its text ends within a document

    def add(self, batch: Batch, ids: np.ndarray) -> None:
        """Count a batch and its tokens."""
        texts = [piece for piece in batch if piece is not END]
        self.batches += 1
        self.tokens += len(ids)
        self.documents += len(batch) - len(texts)
        self.characters += length(batch)
        self.bytes += sum(len(text.encode()) for text in texts)
        self.cut = batch[-1] is not END


def is_whole(folder: Path) -> bool:
    """Whether a folder's manifest can be read and every file is the one it describes. A file that has its size and
    time is not read."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        if manifest["settings"]["format"] != FORMAT or not manifest.keys() >= NEEDED:
            return False
        for name, known in manifest["files"].items():
            stat = (folder / name).stat()
            same_time = [stat.st_size, stat.st_mtime_ns] == known["stat"]
            if not same_time and checksum(folder / name) != known["sha256"]:
                return False
        return True
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def pack(
    text: Text,
    tokenizer_kind: str,
    vocab_size: int,
    cache_dir: str | Path,
    tokenizer: Tokenizer | None = None,
    num_proc: int | None = None,
) -> TokenFiles:
    """The packed form of `text`: the one in `cache_dir` if it was made of the same text with the same settings,
    or a new one, which appears there whole or not at all. A `tokenizer` that exists already is used as it is."""
    settings = {"format": FORMAT, "tokenizer": tokenizer_kind, "tokenizers": version("tokenizers")}
    if tokenizer:
        settings["tokenizer"] = hashlib.sha256(tokenizer.to_json().encode()).hexdigest()
    elif tokenizer_kind == "bpe":
        settings["vocab_size"] = vocab_size
    halves = {split: source_of(content) for split, content in text._asdict().items()}
    made_of = {"settings": settings, "text": {split: source.fingerprint for split, source in halves.items()}}
    key = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]
    folder, making = Path(cache_dir) / key, Path(cache_dir) / f".{key}"
    if is_whole(folder):
        return TokenFiles(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with alone(making.with_suffix(".lock")):
        if is_whole(folder):  # another process has just made it
            return TokenFiles(folder)
        if folder.exists():
            say(f"{folder} is damaged; packing the text again")
            shutil.rmtree(folder) if folder.is_dir() else folder.unlink()
        try:
            tokenizer = kept(making) or keep(making, tokenizer or learn_tokenizer(halves, tokenizer_kind, vocab_size))
            write_manifest(making, made_of, tokenizer, write_shards(making, halves, tokenizer, num_proc))
        except Exception as error:
            if isinstance(error, UserError) or not finished(making):
                shutil.rmtree(making, ignore_errors=True)
            raise
        making.rename(folder)
        (folder / "shards.json").unlink()
    return TokenFiles(folder)


@contextmanager
def alone(file: Path) -> Iterator[None]:
    """Of several processes, one at a time; a process that dies lets the next one in."""
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say("another process is preparing this text; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def kept(making: Path) -> Tokenizer | None:
    """The tokenizer of a text whose packing was interrupted."""
    try:
        return Tokenizer.from_json((making / "tokenizer.json").read_text(encoding="utf-8"))
    except Exception:  # none, or a damaged one, of which tokenizers raises nothing more particular
        return None


def keep(making: Path, tokenizer: Tokenizer) -> Tokenizer:
    """Keep the tokenizer, for this time and the next if there is one."""
    shutil.rmtree(making, ignore_errors=True)
    write_text(making / "tokenizer.json", tokenizer.to_json())
    return tokenizer


def finished(making: Path) -> list[Shard]:
    """The shards that an interrupted packing left whole, up to the first that is not."""
    try:
        shards = [Shard(**shard) for shard in json.loads((making / "shards.json").read_text(encoding="utf-8"))]
        return list(takewhile(lambda shard: checksum(making / shard.file) == shard.sha256, shards))
    except (OSError, ValueError, TypeError):
        return []


def learn_tokenizer(halves: dict[str, Source], kind: str, vocab_size: int) -> Tokenizer:
    """A tokenizer made from the text. Characters of the held-out part count as known; merges are learned from the
    training part alone, of a long one from pieces all over it."""
    say(f"making a tokenizer of kind {kind} from the text")
    several = any(source.documents != 1 for source in halves.values())
    if kind == "char":
        every = told(chain(*(source.read() for source in halves.values())))
        return train_tokenizer(kind, every, several=several)
    tokenizer = train_tokenizer(kind, told(sampled(halves["train"])), vocab_size, several)
    if kind == "bpe" and tokenizer.vocab_size < vocab_size:
        say(f"the text has merges for {tokenizer.vocab_size} tokens, fewer than tokenizer.vocab_size={vocab_size}")
    return tokenizer


def sampled(source: Source) -> Stream:
    """Every n-th piece of a text, so that they have about SAMPLE characters; of a text of unknown length the first."""
    every = -(-(source.characters or 0) // SAMPLE) or 1
    taken = 0
    for piece in islice(filter(None, pieces(source.read())), 0, None, every):
        yield piece
        taken += len(piece)
        if taken > SAMPLE:
            break


def told(stream: Stream) -> Stream:
    """The stream, with its progress."""
    progress = Progress("read", "characters")
    for piece in stream:
        yield piece
        progress(len(piece or ""))
    if progress.done > SAMPLE // 8:
        say(f"learning from {progress.done:,} characters")


def write_shards(making: Path, halves: dict[str, Source], tokenizer: Tokenizer, num_proc: int | None) -> list[Shard]:
    """Tokenize both splits into files of the folder, but for those that are whole from before."""
    done, lengths = finished(making), [source.characters for source in halves.values()]
    total = None if None in lengths else sum(filter(None, lengths)) - sum(shard.characters for shard in done)
    much = "the text" if total is None else f"{total:,} characters"
    say(f"packing {much}{', going on where it stopped' if done else ''}")
    progress, dtype = Progress("packed", "characters", total), dtype_of(tokenizer)
    for split, source in halves.items():
        mine = [shard for shard in done if shard.split == split]
        rest = islice(batches(source.read()), sum(shard.batches for shard in mine), None)
        stream = encoded(rest, tokenizer, dtype, num_proc, sum(shard.characters for shard in mine))
        while not (mine and mine[-1].last):
            shard = Shard(f"{split}-{len(mine):05}.bin", split)
            write_shard(making / shard.file, shard, stream, progress)
            source.check()
            mine.append(shard)
            done.append(shard)
            write_text(making / "shards.json", json.dumps([asdict(shard) for shard in done]))
    return done


def write_shard(file: Path, shard: Shard, stream: Iterator[tuple[Batch, np.ndarray]], progress: Progress) -> None:
    """The next tokens of a stream into a file, until it is full."""
    digest = hashlib.sha256()
    with naming(file), file.open("wb") as out:
        shard.last = True
        for batch, ids in stream:
            out.write(ids.data)
            digest.update(ids.data)
            shard.add(batch, ids)
            progress(length(batch))
            if shard.tokens >= SHARD:
                shard.last = False
                break
        out.flush()
        os.fsync(out.fileno())
    shard.sha256 = digest.hexdigest()


@contextmanager
def naming(file: Path) -> Iterator[None]:
    """What the system refuses to write, as when the disk is full, is about this file."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(file)
        raise


def write_manifest(making: Path, made_of: dict, tokenizer: Tokenizer, shards: list[Shard]) -> None:
    """Describe the folder's files, now that they are whole."""
    totals: dict[str, dict[str, int]] = {name: {} for name in ("documents", "tokens", "characters", "bytes")}
    for split in SPLITS:
        mine = [shard for shard in shards if shard.split == split and shard.tokens]
        require(bool(mine), f"the {split} part of the text holds nothing")
        for name, total in totals.items():
            total[split] = sum(getattr(shard, name) for shard in mine)
        totals["documents"][split] += mine[-1].cut  # where the split cuts one in two, both parts have it
    sums = {shard.file: shard.sha256 for shard in shards} | {"tokenizer.json": checksum(making / "tokenizer.json")}
    stats = {name: (making / name).stat() for name in sums}
    ends = [shard.cut for shard in shards if shard.split == "train" and shard.tokens]
    manifest = {
        **made_of,
        **totals,
        "cut": ends[-1],  # whether the split cuts a document in two
        "versions": {name: version(name) for name in ("headwise", "tokenizers", "numpy")},
        "dtype": dtype_of(tokenizer).str,
        "vocab_size": tokenizer.vocab_size,
        "shards": [{name: getattr(shard, name) for name in ("file", "split", "tokens")} for shard in shards],
        "files": {
            name: {"sha256": sums[name], "stat": [stat.st_size, stat.st_mtime_ns]} for name, stat in stats.items()
        },
    }
    write_text(making / "manifest.json", json.dumps(manifest, indent=2) + "\n")


def dtype_of(tokenizer: Tokenizer) -> np.dtype:
    """The smallest of two little-endian kinds of number that holds every token."""
    return np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")


def checksum(file: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with file.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
