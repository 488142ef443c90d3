"""Convert text to token ids and back without loss: characters, bytes or byte-level BPE, all made with `tokenizers`.

    tokenizer = train_tokenizer("char", text)
    tokenizer.decode(tokenizer.encode(text)) == text

A tokenizer is saved as the JSON of `tokenizers`, with the token files and in every checkpoint. A text of any length is
a stream of pieces, so that it is never in memory as a whole.
"""

from __future__ import annotations

import re
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend
from tokenizers.decoders import DecodeStream

from headwise.errors import UserError, choose, require
from headwise.registry import table

TOKENIZER_FILES = ["tokenizer.json", "vocab.json", "merges.txt"]  # of a model's folder; the first, or both others
END_OF_TEXT = "<|endoftext|>"  # GPT-2's name for the token between documents
DIFFICULT_TEXT = " Ab\r\n\n\t  né ne\u0301 \ufb01 \u00a0 日🦁\0ß… “x” "  # what some tokenizers change, or do not know
SURROGATES = re.compile("[\ud800-\udfff]")
PIECE = 1 << 16  # characters of a piece that is encoded by itself, at most


class Piece(NamedTuple):
    """Characters of one document, in order; the last piece of a document ends it."""

    text: str
    ends_document: bool = False


def split_pieces(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Yield the same documents in pieces of at most PIECE characters, cut after a line break where there is one. Where
    they are cut does not depend on how the text arrived."""
    held = ""
    for text, ends_document in pieces:
        held, start = held + text, 0
        while len(held) - start > PIECE:
            after_line = held.rfind("\n", start, start + PIECE) + 1
            stop = after_line if after_line > start else start + PIECE
            yield Piece(held[start:stop])
            start = stop
        held = held[start:]
        if ends_document:
            yield Piece(held, ends_document=True)
            held = ""
    if held:
        yield Piece(held)


class Tokenizer:
    """Encode and decode without loss, with a `tokenizers.Tokenizer`. `label` shows one token."""

    def __init__(self, backend: Backend):
        self.backend = backend
        self.backend.encode_special_tokens = True  # text that spells a special token stays text
        self.backend.no_truncation()  # an imported one may cut
        self.backend.no_padding()
        if getattr(backend.model, "dropout", None):
            backend.model.dropout = None  # BPE dropout: the same text would have other tokens each time
        vocabulary = backend.get_vocab()
        self.vocab_size = 1 + max(vocabulary.values())  # numbers may be left out
        special = {token.content for token in backend.get_added_tokens_decoder().values() if token.special}
        self.end_of_text = backend.token_to_id(END_OF_TEXT) if END_OF_TEXT in special else None
        # A word-level tokenizer knows only its own characters; a byte-level one knows them all.
        self.characters = set(vocabulary) if isinstance(backend.model, models.WordLevel) else None
        self.table = None if self.characters is None else token_table(vocabulary)
        bare = {name: token for name, token in vocabulary.items() if name != END_OF_TEXT}
        self.is_bytes = bare == BYTES and self.encode(DIFFICULT_TEXT) == list(DIFFICULT_TEXT.encode())

    def encode(self, text: str, what: str = "the text") -> list[int]:
        """Return the token ids of `text`. Raise UserError naming every unknown character and its place in `what`."""
        self.check(text, what)
        return self.backend.encode(text, add_special_tokens=False).ids

    def encode_pieces(self, pieces: list[Piece], dtype: np.dtype, start: int = 0, what: str = "the text") -> np.ndarray:
        """Return the token ids of some pieces, encoded on all cores, with the end-of-text token, if there is one, after
        each document. Raise UserError naming every unknown character; the first piece is `start` characters into
        `what`."""
        end = np.array([] if self.end_of_text is None else [self.end_of_text], dtype=dtype)
        parts = []
        for piece, ids in zip(pieces, self.encode_texts([piece.text for piece in pieces], start, what), strict=True):
            parts.append(ids.astype(dtype, copy=False))
            if piece.ends_document:
                parts.append(end)
        return np.concatenate(parts)

    def encode_texts(self, texts: list[str], start: int, what: str) -> Iterator[np.ndarray]:
        """Yield the token ids of each text. The first is `start` characters into `what`."""
        if self.table is None and not self.is_bytes:
            for text in texts:
                self.check(text, what, start)
                start += len(text)
            for encoding in self.backend.encode_batch_fast(texts, add_special_tokens=False):
                # array reads a list of integers three times as fast as numpy does
                yield np.frombuffer(array("I", encoding.ids), dtype=np.uint32)
            return
        for text in texts:
            if self.table is None:
                self.check(text, what, start)
                yield np.frombuffer(text.encode(), dtype=np.uint8)
            else:
                ids = self.table[code_points(text)]
                if (ids < 0).any():
                    self.check(text, what, start)
                yield ids
            start += len(text)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids`."""
        return self.backend.decode(list(ids), skip_special_tokens=False)

    def replace_unknown(self, text: str) -> str:
        """Return the text with a question mark, or else a space or nothing, for each character without a token."""
        known = self.characters
        if known is None:
            return SURROGATES.sub("\N{REPLACEMENT CHARACTER}", text)
        instead = next((c for c in "? " if c in known), "")
        return "".join(c if c in known else instead for c in text)

    def unknown(self, text: str) -> list[str]:
        """Return the distinct characters of the text that have no token, in the order in which they occur."""
        surrogates = SURROGATES.findall(text)  # what Python makes of bytes that are not UTF-8
        found = set(surrogates) if self.characters is None else set(text) - self.characters
        return sorted(found, key=text.index)

    def check(self, text: str, what: str = "the text", start: int = 0) -> None:
        """Raise UserError if the text, which begins `start` characters into a longer one, holds characters without a
        token."""
        if self.characters is None:
            with suppress(UnicodeEncodeError):
                text.encode()
                return  # the common case: no surrogates
        unknown = self.unknown(text)
        if unknown:
            listed = ", ".join(f"{c!r} at {start + text.index(c)}" for c in unknown[:5])
            more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
            remedy = "use other characters, or train with tokenizer=bpe, which encodes any text"
            if any(map(SURROGATES.match, unknown)):
                remedy = "give text in UTF-8"
            raise UserError(f"{what} holds characters the tokenizer has no token for: {listed}{more}; {remedy}")

    def check_exact(self, text: str, what: str) -> None:
        """Raise UserError if encoding and decoding changes the text, or one of the characters that tokenizers often
        change. `what` names the tokenizer."""
        odd = DIFFICULT_TEXT if self.characters is None else "".join(c for c in sorted(self.characters) if len(c) == 1)
        for sample in (text, odd):
            again = self.decode(self.encode(sample) * 2)  # twice, since the start may be treated differently
            wrong = (i for i, (a, b) in enumerate(zip(sample * 2, again, strict=False)) if a != b)
            at = next(wrong, min(2 * len(sample), len(again)))
            lost = f"{what} changes {(sample * 2)[at : at + 10]!r}; give a tokenizer that decodes to the same text"
            require(again == sample * 2, lost)

    def label(self, token: int) -> str:
        """Return one token as it is shown in pictures: white space made visible, partial characters as <0xE2>."""
        name = self.backend.id_to_token(token) or f"<{token}>"
        if self.characters is None and all(c in BYTES for c in name):
            name = bytes(BYTES[c] for c in name).decode("utf-8", errors="surrogateescape")
            name = "".join(f"<0x{ord(c) - 0xDC00:02X}>" if 0xDC80 <= ord(c) <= 0xDCFF else c for c in name)
        for char, shown in ((" ", "␣"), ("\n", "⏎"), ("\t", "⇥"), ("\r", "␍")):
            name = name.replace(char, shown)
        return "".join(c if c.isprintable() else f"<{ord(c):02X}>" for c in name)

    def to_json(self) -> str:
        """Return the tokenizer as `tokenizers` writes it to tokenizer.json."""
        return self.backend.to_str()

    @classmethod
    def from_json(cls, text: str) -> Tokenizer:
        """Return the tokenizer that to_json wrote."""
        return cls(Backend.from_str(text))


class TextStream:
    """Decode tokens one at a time to text in whole characters."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer, self.backend = tokenizer, DecodeStream(skip_special_tokens=False)
        self.waiting: list[int] = []  # tokens of a character that is not complete

    def push(self, token: int) -> str:
        """Return the text that the token completes, perhaps none."""
        self.waiting.append(token)
        text = self.backend.step(self.tokenizer.backend, token)
        if text:
            self.waiting = []
        return text or ""

    def finish(self) -> str:
        """Return the text of the tokens that completed no character."""
        waiting, self.waiting = self.waiting, []
        return self.tokenizer.decode(waiting) if waiting else ""


def _byte_names() -> dict[str, int]:
    """Return {printable character: byte}, how byte-level BPE writes each byte: the inverse of GPT-2's
    bytes_to_unicode."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [b for b in range(256) if b not in visible]
    return {chr(b): b for b in visible} | {chr(256 + i): b for i, b in enumerate(hidden)}


BYTES = _byte_names()


def code_points(text: str) -> np.ndarray:
    """Return the code point of each character, [len(text)] uint32."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def token_table(vocabulary: dict[str, int]) -> np.ndarray:
    """Return the token of each character, indexed by code point; -1 where there is none."""
    table = np.full(sys.maxunicode + 1, -1, dtype=np.int32)
    for name, token in vocabulary.items():
        if len(name) == 1:
            table[ord(name)] = token
    return table


def train_char(texts: Iterator[str], vocab_size: int) -> Backend:
    """Return a tokenizer with one token for each distinct character of the texts, in code point order. vocab_size is
    ignored."""
    alphabet: set[str] = set()
    for text in texts:
        alphabet.update(text)
    backend = Backend(models.WordLevel({character: token for token, character in enumerate(sorted(alphabet))}))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    return backend


def byte_level(model: models.BPE, use_regex: bool = True) -> Backend:
    """Return a tokenizer of GPT-2's kind: BPE over the bytes of UTF-8. `use_regex` keeps merges within words."""
    backend = Backend(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    backend.decoder = decoders.ByteLevel()
    return backend


def train_bpe(texts: Iterator[str], vocab_size: int) -> Backend:
    """Return a byte-level BPE tokenizer like GPT-2's (Sennrich et al. 2016), learned from the texts. It has at least
    the 256 bytes."""
    backend = byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    return backend


def train_byte(texts: Iterator[str], vocab_size: int) -> Backend:
    """Return a tokenizer with one token for each byte of UTF-8, whose id is the byte's value. Both arguments are
    ignored."""
    return byte_level(models.BPE(vocab=BYTES, merges=[]), use_regex=False)


Train = Callable[[Iterator[str], int], Backend]
TOKENIZERS: dict[str, Train] = table("tokenizer", {"char": train_char, "byte": train_byte, "bpe": train_bpe})


def train_tokenizer(
    kind: str, text: str | Iterable[Piece], vocab_size: int = 1024, end_of_text: bool = False
) -> Tokenizer:
    """Return a tokenizer of the given kind (char, byte, bpe) made from the text. `end_of_text` adds a token that ends
    documents, for a text of several."""
    pieces = [Piece(text)] if isinstance(text, str) else text
    texts = (piece.text for piece in split_pieces(pieces) if piece.text)
    backend = choose("tokenizer.kind", kind, TOKENIZERS)(texts, vocab_size)
    if end_of_text:
        backend.add_special_tokens([END_OF_TEXT])
    return Tokenizer(backend)


def read_tokenizer(path: Path) -> Tokenizer:
    """Return the tokenizer of a tokenizer.json, or of a folder: of its tokenizer.json, or else of the vocab.json and
    merges.txt of a byte-level BPE. Raise UserError if there is none or it cannot be read."""
    file = path / TOKENIZER_FILES[0] if path.is_dir() else path
    parts = [path / name for name in TOKENIZER_FILES[1:]]
    found = file.is_file() or all(part.is_file() for part in parts)
    require(found, "there is no tokenizer.json; save the tokenizer beside the model")
    try:
        if file.is_file():
            return Tokenizer.from_json(file.read_text(encoding="utf-8"))
        backend = byte_level(models.BPE.from_file(*map(str, parts)))
    except Exception as error:  # tokenizers raises nothing more specific
        name = file.name if file.is_file() else " and ".join(TOKENIZER_FILES[1:])
        raise UserError(f"{name} cannot be read as a tokenizer: {error}") from error
    if backend.token_to_id(END_OF_TEXT) is not None:
        backend.add_special_tokens([END_OF_TEXT])
    return Tokenizer(backend)
