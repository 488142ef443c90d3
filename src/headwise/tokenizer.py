"""Text to token ids and back, exactly: characters, bytes, or byte-level BPE, all made with `tokenizers`.

    tokenizer = train_tokenizer("char", text)
    tokenizer.decode(tokenizer.encode(text)) == text

A tokenizer travels as the JSON of `tokenizers` itself: in the token cache and in every checkpoint.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend
from tokenizers.decoders import DecodeStream

from headwise.errors import UserError, choose, require

END_OF_TEXT = "<|endoftext|>"  # GPT-2's name for the token between documents
SURROGATES = re.compile("[\ud800-\udfff]")
PIECE = 1 << 16  # characters encoded at a time, so that memory stays flat


class Tokenizer:
    """Encodes and decodes without loss. Wraps a `tokenizers.Tokenizer` and knows how to show one token."""

    def __init__(self, backend: Backend):
        self.backend = backend
        self.backend.encode_special_tokens = True  # text that spells a special token stays text
        self.backend.no_truncation()  # an imported one may cut
        self.backend.no_padding()
        self.vocab_size = 1 + max(backend.get_vocab().values())  # numbers may be left out
        special = {token.content for token in backend.get_added_tokens_decoder().values() if token.special}
        self.end_of_text = backend.token_to_id(END_OF_TEXT) if END_OF_TEXT in special else None
        # A word-level tokenizer knows only its own characters; a byte-level one knows them all.
        self.characters = set(backend.get_vocab()) if isinstance(backend.model, models.WordLevel) else None

    def encode(self, text: str, what: str = "the text") -> list[int]:
        """Token ids of `text`. Raises UserError naming every unknown character and its place in `what`."""
        self.check(text, what)
        return self.backend.encode(text, add_special_tokens=False).ids

    def encode_pieces(self, text: str, what: str = "the text") -> Iterator[list[int]]:
        """Token ids of a long text, one list per piece; pieces end at a line's end where there is one."""
        self.check(text, what)
        for batch in batched(pieces(text), 16):  # encoded side by side on all cores
            for encoding in self.backend.encode_batch_fast(batch, add_special_tokens=False):
                yield encoding.ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`."""
        return self.backend.decode(list(ids), skip_special_tokens=False)

    def replace_unknown(self, text: str) -> str:
        """The text with a question mark, or else a space or nothing, for each character without a token."""
        known = self.characters
        if known is None:
            return SURROGATES.sub("\N{REPLACEMENT CHARACTER}", text)
        instead = next((c for c in "? " if c in known), "")
        return "".join(c if c in known else instead for c in text)

    def unknown(self, text: str) -> list[str]:
        """The characters of the text that this tokenizer has no token for, in the order in which they come."""
        halves = SURROGATES.findall(text)  # what Python makes of bytes that are not UTF-8
        found = set(halves) if self.characters is None else set(text) - self.characters
        return sorted(found, key=text.index)

    def check(self, text: str, what: str = "the text") -> None:
        """Raise UserError if the text holds characters this tokenizer has no token for."""
        unknown = self.unknown(text)
        if unknown:
            listed = ", ".join(f"{c!r} at {text.index(c)}" for c in unknown[:5])
            more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
            halves = any(map(SURROGATES.match, unknown))
            remedy = "give text in UTF-8" if halves else "use other characters, or tokenizer=bpe, which knows all"
            raise UserError(f"{what} holds characters the tokenizer has no token for: {listed}{more}; {remedy}")

    def check_exact(self, text: str, what: str) -> None:
        """Raise UserError if the text does not come back as it was; `what` names the tokenizer."""
        again = self.decode(self.encode(text))
        at = next((i for i, (a, b) in enumerate(zip(text, again, strict=False)) if a != b), min(len(text), len(again)))
        require(
            again == text, f"{what} does not give {text[at : at + 10]!r} back as it was; take one that loses nothing"
        )

    def label(self, token: int) -> str:
        """One token as it is shown in pictures: white space made visible, partial characters as <0xE2>."""
        name = self.backend.id_to_token(token) or f"<{token}>"
        if self.characters is None and all(c in BYTES for c in name):
            name = bytes(BYTES[c] for c in name).decode("utf-8", errors="surrogateescape")
            name = "".join(f"<0x{ord(c) - 0xDC00:02X}>" if 0xDC80 <= ord(c) <= 0xDCFF else c for c in name)
        for char, shown in ((" ", "␣"), ("\n", "⏎"), ("\t", "⇥"), ("\r", "␍")):
            name = name.replace(char, shown)
        return "".join(c if c.isprintable() else f"<{ord(c):02X}>" for c in name)

    def to_json(self) -> str:
        """The tokenizer as `tokenizers` writes it to tokenizer.json."""
        return self.backend.to_str()

    @classmethod
    def from_json(cls, text: str) -> Tokenizer:
        """The tokenizer that to_json wrote."""
        return cls(Backend.from_str(text))


class TextStream:
    """Tokens pushed one at a time, text in whole characters."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer, self.backend = tokenizer, DecodeStream(skip_special_tokens=False)
        self.waiting: list[int] = []  # whose text is not whole yet

    def push(self, token: int) -> str:
        """The text that the token makes whole, perhaps none."""
        self.waiting.append(token)
        text = self.backend.step(self.tokenizer.backend, token)
        if text:
            self.waiting = []
        return text or ""

    def finish(self) -> str:
        """What is left at the end, as far as it came."""
        waiting, self.waiting = self.waiting, []
        return self.tokenizer.decode(waiting) if waiting else ""


def pieces(text: str) -> Iterator[str]:
    """The text in pieces of about PIECE characters, cut after a line's end where there is one."""
    start = 0
    while start < len(text):
        cut = text.rfind("\n", start, start + PIECE) + 1
        end = cut if cut > start and start + PIECE < len(text) else start + PIECE
        yield text[start:end]
        start = end


def batched(items: Iterable[str], size: int) -> Iterator[list[str]]:
    """The items in lists of `size`; the last may be shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _byte_names() -> dict[str, int]:
    """The printable character by which byte-level BPE writes each byte (GPT-2's bytes_to_unicode), and the byte."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [b for b in range(256) if b not in visible]
    return {chr(b): b for b in visible} | {chr(256 + i): b for i, b in enumerate(hidden)}


BYTES = _byte_names()


def train_char(text: str, vocab_size: int) -> Backend:
    """One token for each distinct character of the text, in code point order; vocab_size does not apply."""
    backend = Backend(models.WordLevel({c: i for i, c in enumerate(sorted(set(text)))}))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    return backend


def train_bpe(text: str, vocab_size: int) -> Backend:
    """GPT-2's byte-level byte-pair encoding (Sennrich et al. 2016), learned from the text; the 256 bytes at least."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator(pieces(text), trainer)
    return backend


def train_byte(text: str, vocab_size: int) -> Backend:
    """One token for each byte of UTF-8, whose number it has; neither the text nor vocab_size apply."""
    backend = Backend(models.BPE(vocab=BYTES, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return backend


TOKENIZERS: dict[str, Callable[[str, int], Backend]] = {"char": train_char, "byte": train_byte, "bpe": train_bpe}


def train_tokenizer(kind: str, text: str, vocab_size: int = 1024) -> Tokenizer:
    """A tokenizer of the given kind (char, byte, bpe) made from the text."""
    return Tokenizer(choose("tokenizer.kind", kind, TOKENIZERS)(text, vocab_size))
