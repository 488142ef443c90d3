"""Where text comes from, by name: python_docs and repeats (built in), files.

text = read_text("files", path="my.txt", val_path=None, val_fraction=0.1)
for piece in text.train.read(): ...     # never all of it at once
"""

from __future__ import annotations

import codecs
import gzip
import hashlib
import importlib.util
import zlib
from collections.abc import Callable
from functools import partial
from glob import glob
from pathlib import Path
from typing import NamedTuple

from headwise.cli import say
from headwise.data.repeats import repeats
from headwise.errors import UserError, choose, require
from headwise.stream import END, Content, Source, Stream, part, stream_of, survey

CHUNK = 1 << 20  # bytes read at a time
ENDINGS = (".txt", ".md")

# Read in this order where a Python comes without its help topics: about as long, and in every Python from 3.11 on.
FALLBACK_MODULES = """
argparse calendar configparser contextlib csv dataclasses difflib enum functools heapq optparse
""".split()  # noqa: SIM905


class Text(NamedTuple):
    """A text in its two halves, which never overlap."""

    train: Content
    val: Content


def python_docs() -> str:
    """The reference topics of Python's own help(), about 465,000 characters of English prose and grammar.

    They come with nearly every Python and differ a little between versions. A Python without them gives the
    sources of a fixed list of its standard-library modules instead.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError:
        return library_sources()
    return "\n\n".join(topics.values())


def library_sources() -> str:
    """The sources of FALLBACK_MODULES, as far as this Python has them as text."""
    specs = [importlib.util.find_spec(name) for name in FALLBACK_MODULES]
    files = [Path(s.origin) for s in specs if s and s.origin and s.origin.endswith(".py")]
    return "\n\n".join(file.read_text(encoding="utf-8") for file in files)


def files(path: str | None, key: str = "data.path", skip_bad: bool = False) -> Source:
    """The text files that `path` names (a file, a folder, or a glob), in name order, a document each. `key` is where
    the user wrote the path. Raises UserError naming every file that cannot be read, or leaves them out."""
    require(bool(path), f"data=files needs {key}=FILE, a folder of text files, or a glob")
    good, bad = [], []
    for file in find_files(str(path), key):
        try:
            good.append((file, survey(partial(read_file, file))))
        except UserError as error:
            bad.append(str(error))
    if bad:
        problem = f"{key}={path}: {'; '.join(bad)}"
        require(skip_bad and bool(good), f"{problem}; mend them, or leave them out with data.skip_bad=true")
        say(f"{problem}; left out")
    if len(good) == 1:
        return good[0][1]
    joined = hashlib.sha256("".join(source.fingerprint for _, source in good).encode()).hexdigest()
    length, documents = (sum(getattr(source, name) for _, source in good) for name in ("characters", "documents"))
    return Source(lambda: (piece for file, _ in good for piece in read_file(file)), length, documents, joined)


def find_files(path: str, key: str) -> list[Path]:
    """The files that `path` names; at least one, or a UserError."""
    place, known = Path(path).expanduser(), " ".join(ENDINGS)
    if place.is_dir():
        found = sorted(file for file in place.rglob("*") if file.is_file() and is_text(file))
        require(bool(found), f"{key}={path} is a folder without text files ({known}; also .gz)")
    else:
        found = [place] if place.is_file() else sorted(Path(f) for f in glob(str(place), recursive=True))
        found = [f for f in found if f.is_file()]
        require(bool(found), f"{key}={path} names no file; give a text file, a folder of them, or a glob")
    for file in found:
        require(is_text(file), f"{key}={path} names {file.name}; what can be read is {known}, also .gz")
    return found


def is_text(file: Path) -> bool:
    """Whether the file's name ends like a text's."""
    return Path(file.name.removesuffix(".gz")).suffix in ENDINGS


def read_file(file: Path) -> Stream:
    """A text file's content with its line endings as they are, a piece at a time. Raises UserError for a file that is
    empty or no text, naming the first byte that is not UTF-8."""
    decoder, at, empty = codecs.getincrementaldecoder("utf-8")(), 0, True
    opened = gzip.open if file.suffix == ".gz" else open
    with opened(file, "rb") as raw:
        while True:
            try:
                chunk = raw.read(CHUNK)
            except (gzip.BadGzipFile, EOFError, zlib.error) as error:
                raise UserError(f"{file} cannot be unpacked ({error})") from error
            at += len(chunk)
            try:
                text = decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                place = at - len(error.object) + error.start
                raise UserError(f"{file} is not UTF-8 at byte {place}; convert it, for example with iconv") from error
            require("\0" not in text, f"{file} holds zero bytes, so that it is no text")
            if text:
                empty = False
                yield text
            if not chunk:
                break
    require(not empty, f"{file} is empty")
    yield END


def decoded(raw: bytes, what: str) -> str:
    """UTF-8 as text. Raises UserError at the first byte that is none; `what` names where it came from."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        message = f"{what} is not UTF-8 at byte {error.start}; convert it, for example with iconv"
        raise UserError(message) from error


SOURCES: dict[str, Callable[[], str] | None] = {"python_docs": python_docs, "files": None, "repeats": repeats}


def read_text(source: str, path: str | None, val_path: str | None, val_fraction: float, skip_bad: bool = False) -> Text:
    """The text of a source, split: the last `val_fraction` of its characters is held out for validation, or
    all of `val_path` where that is given."""
    built_in = choose("data.source", source, SOURCES)
    text = survey(partial(stream_of, built_in())) if built_in else files(path, skip_bad=skip_bad)
    if val_path:
        train, val = text, files(val_path, "data.val_path", skip_bad)
    else:
        require(0 < val_fraction < 1, f"data.val_fraction={val_fraction} must be above 0 and below 1")
        cut = int(text.characters * (1 - val_fraction))
        train, val = part(text, 0, cut), part(text, cut, text.characters)
    where = f"data.path={path}" if path else f"data={source}"
    require(any(piece and piece.strip() for piece in text.read()), f"{where} holds no text")
    held = f"data.val_path={val_path}" if val_path else f"data.val_fraction={val_fraction} of {where}"
    for half, name in ((train, f"{where} without the part held out"), (val, held)):
        short = f"{name} is too short: {half.characters} character(s); give more text or data.val_path"
        require(half.characters >= 2, short)
    return Text(train, val)
