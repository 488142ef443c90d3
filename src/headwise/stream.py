"""A text of any length as a stream of pieces, so that it never stands in memory as a whole.

    for piece in stream_of(text):      # strings of any length; END after each document
        ...

Dimensions: characters, unless said otherwise.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

END = None  # ends a document
Stream = Iterator[str | None]
PIECE = 1 << 16  # characters of a piece that is encoded by itself


@dataclass(frozen=True)
class Source:
    """A text that can be read again and again."""

    read: Callable[[], Stream]
    fingerprint: str  # changes with its content
    characters: int | None = None  # how many there are, or about; None: not known before it is read
    documents: int | None = None  # likewise
    check: Callable[[], None] = lambda: None  # raises UserError if the text is no longer what it was


Content = str | Source  # a string is a text of one document


def stream_of(content: Content) -> Stream:
    """The pieces of a text."""
    if isinstance(content, str):
        return iter([content, END])
    return content.read()


def source_of(content: Content) -> Source:
    """A string as a text to read; a source as it is."""
    return survey(partial(stream_of, content)) if isinstance(content, str) else content


def whole(content: Content) -> str:
    """A text that is known to be short, as one string."""
    return "".join(piece for piece in stream_of(content) if piece)


def survey(read: Callable[[], Stream], progress: Callable[[int], None] = lambda characters: None) -> Source:
    """A text that was read once, to know how long it is and what it holds. `progress` is told how much was read."""
    characters, documents, digest = 0, 0, hashlib.sha256()
    for piece in read():
        if piece is END:
            documents += 1
            digest.update(b"\xff")  # which UTF-8 has not
        else:
            characters += len(piece)
            digest.update(piece.encode("utf-8", "surrogatepass"))
            progress(len(piece))
    return Source(read, digest.hexdigest(), characters, documents)


def part(source: Source, start: int, stop: int) -> Source:
    """The characters of a text from start on, before stop."""

    def read() -> Stream:
        at = 0
        for piece in source.read():
            if piece is END:
                if start < at <= stop:
                    yield END
                continue
            inside = piece[max(0, start - at) : max(0, stop - at)]
            at += len(piece)
            if inside:
                yield inside
            if at > stop:
                break

    documents = 1 if source.documents == 1 else None
    return Source(read, f"{source.fingerprint} {start} {stop}", stop - start, documents, source.check)


def spaced(source: Source, fraction: float, others: bool = False) -> Source:
    """That fraction of a text's documents, evenly spaced, or all the others. The i-th document is one of them if
    i times the fraction passes a whole number before the next one."""

    def read() -> Stream:
        index = 0
        for piece in source.read():
            if (math.floor((index + 1) * fraction) > math.floor(index * fraction)) != others:
                yield piece
            index += piece is END

    about = source.characters and int(source.characters * (1 - fraction if others else fraction))
    return Source(read, f"{source.fingerprint} {fraction} {others}", about, check=source.check)


def first(stream: Stream, documents: int | None) -> Stream:
    """The first documents of a stream; None: all."""
    left = documents or math.inf
    for piece in stream:
        yield piece
        left -= piece is END
        if not left:
            break


def length(batch: Iterable[str | None]) -> int:
    """Characters of some pieces."""
    return sum(len(piece) for piece in batch if piece is not END)


def pieces(stream: Iterable[str | None]) -> Stream:
    """The stream in pieces of PIECE characters at most, each within a document, cut after a line's end where there is
    one; END stays where it is."""
    held = ""
    for text in stream:
        if text is END:
            yield from filter(None, [held])
            yield END
            held = ""
            continue
        held, start = held + text, 0
        while len(held) - start > PIECE:
            cut = held.rfind("\n", start, start + PIECE) + 1
            end = cut if cut > start else start + PIECE
            yield held[start:end]
            start = end
        held = held[start:]
    yield from filter(None, [held])
