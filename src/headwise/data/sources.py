"""Where text comes from, by name: python_docs and repeats (built in), files, hub; and which part of it is held out.

text = read_text(DataConfig(source="files", path="my.txt"))
for piece in text.train.read(): ...     # never all of it at once
"""

from __future__ import annotations

import hashlib
import http.client
import importlib.util
import math
import urllib.error
import urllib.request
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from glob import glob
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from headwise.config import DataConfig
from headwise.console import Progress, say
from headwise.data import hub
from headwise.data.readers import CHUNK, PACKED, READERS, as_lines, is_known, read_file
from headwise.data.repeats import repeats
from headwise.data.surveys import once, require_unchanged, stamp
from headwise.errors import UserError, choose, require
from headwise.files import atomic_write, expand_path
from headwise.stream import Content, Source, Stream, first, part, source_of, spaced, survey

# Read in this order where a Python comes without its help topics: about as long, and in every Python from 3.11 on.
FALLBACK_MODULES = """
argparse calendar configparser contextlib csv dataclasses difflib enum functools heapq optparse
""".split()  # noqa: SIM905
SECONDS = 10  # to wait for a server
NAMED = 10  # bad files, at most


class Text(NamedTuple):
    """A text in its two halves, which never overlap."""

    train: Content
    val: Content


Halves = tuple[Source, Source]


def read_text(data: DataConfig) -> Text:
    """The text that a configuration asks for, split: validation on data.val_path or data.val_split where one is given,
    else on data.val_fraction of it, which are its last characters or documents from all over it."""
    text, val = choose("data.source", data.source, SOURCES)(data), data.val_path or data.val_split
    where = f"data.path={data.path}" if data.path else f"data={data.source}"
    if val:
        rest, held = where, f"data.val_path={val}" if data.val_path else f"data.val_split={val}"
        halves = text, files(data, val, "data.val_path") if data.val_path else hub.dataset(data, val)
    else:
        rest, held = f"{where} without the part held out", f"data.val_fraction={data.val_fraction} of {where}"
        halves = choose("data.split_by", data.split_by, SPLIT_BY)(text, data.val_fraction)
    require(any(piece and piece.strip() for piece in text.read()), f"{where} holds no text")
    for half, name in zip(halves, (rest, held), strict=True):
        length = half.characters
        short = length is not None and length < 2
        require(not short, f"{name} is too short: {length} character(s); give more text or data.val_path")
    return Text(*halves)


def last_characters(text: Source, fraction: float) -> Halves:
    """All but the last characters, and those. Raises UserError for a text of unknown length."""
    length = text.characters
    if length is None:
        raise UserError(
            "data.split_by=characters needs the text's length; give data.split_by=documents or data.val_split"
        )
    cut = int(length * (1 - fraction))
    return part(text, 0, cut), part(text, cut, length)


def spaced_documents(text: Source, fraction: float) -> Halves:
    """All but some documents, and those, evenly spaced."""
    require(text.documents != 1, "data.split_by=documents needs several documents; the text is a single one")
    held = text.documents and math.floor(text.documents * fraction)
    require(held != 0, f"data.val_fraction={fraction} of {text.documents} documents is not one; give a larger part")
    return spaced(text, fraction, others=True), spaced(text, fraction)


SPLIT_BY: dict[str, Callable[[Source, float], Halves]] = {
    "characters": last_characters,
    "documents": spaced_documents,
}


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


def files(data: DataConfig, path: str, key: str = "data.path", but: Collection[Path] = ()) -> Source:
    """The files that `path` names (a file, a folder, or a glob), in name order, but for some. `key` is where the user
    wrote the path. Raises UserError naming every file that cannot be read, or leaves them out with data.skip_bad."""
    found = [file for file in find_files(path, key) if file.resolve() not in but]
    require(bool(found), f"{key}={path} names nothing beside the text that is held out")
    seen, settings = stamp(found), [data.column, data.join_rows, data.max_documents]
    known = once(seen, settings, data.cache_dir, partial(survey_files, data, found))
    bad = known.pop("bad")
    if bad:
        several, more = len(found) > 1, f"; and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
        problem = f"{key}={path}: {'; '.join([*bad.values()][:NAMED])}{more}"
        advice = "; mend them, or leave them out with data.skip_bad=true" if several and key != "--data" else ""
        require(data.skip_bad and len(bad) < len(found), f"{problem}{advice}")
        say(f"{problem}; left out")
    good = [file for file in found if str(file) not in bad]
    check = partial(require_unchanged, found, seen, f"{key}={path}")
    return Source(partial(read_files, data, good), **known, check=check)


def read_files(data: DataConfig, found: list[Path]) -> Stream:
    """The files' documents, as many of them as are wanted."""
    streams = (read_file(file, data.column) for file in found)
    each = map(as_lines, streams) if data.join_rows else streams
    return first(chain.from_iterable(each), data.max_documents)


def survey_files(data: DataConfig, found: list[Path]) -> dict:
    """What Source tells of all these files, and which of them are bad, and why."""
    good, bad, left = [], {}, data.max_documents
    progress = Progress("read", "characters")
    for file in found:
        if left == 0:
            break  # there are enough documents
        try:
            good.append(survey(partial(read_files, replace(data, max_documents=left), [file]), progress))
            left = left and left - (good[-1].documents or 0)
        except UserError as error:
            bad[str(file)] = str(error)
        except OSError as error:
            bad[str(file)] = f"{file}: {error.strerror}"
    joined = hashlib.sha256("".join(source.fingerprint for source in good).encode()).hexdigest()
    return {
        "fingerprint": good[0].fingerprint if len(good) == 1 else joined,
        "characters": sum(source.characters or 0 for source in good),
        "documents": sum(source.documents or 0 for source in good),
        "bad": bad,
    }


def find_files(path: str, key: str) -> list[Path]:
    """The files that `path` names; at least one, or a UserError."""
    place = expand_path(path, key)
    known = f"{' '.join(READERS)}; also {' '.join(PACKED)}"
    if place.is_dir():
        found = sorted(file for file in place.rglob("*") if file.is_file() and is_known(file))
        require(bool(found), f"{key}={path} is a folder without text files ({known})")
    else:
        found = [place] if place.is_file() else sorted(Path(f) for f in glob(str(place), recursive=True))
        found = [f for f in found if f.is_file()]
        seen = "" if place.is_absolute() else f" in {Path.cwd()}"
        require(bool(found), f"{key}={path} names no file{seen}; give a text file, a folder of them, or a glob")
    for file in found:
        require(is_known(file), f"{key}={path} names {file.name}; what can be read is {known}")
    return found


def fetch(url: str, file: Path) -> None:
    """Bring a file from the network, whole or not at all. Raises UserError saying what to do where there is none."""
    require(url.startswith(("https://", "http://")), f"data.url={url} must begin with https:// or http://")
    say(f"fetching {url} to {file}")
    progress = Progress("fetched", "bytes")
    try:
        with (
            urllib.request.urlopen(url, timeout=SECONDS) as answer,
            atomic_write(file) as temporary,
            temporary.open("wb") as out,
        ):
            while chunk := answer.read(CHUNK):
                out.write(chunk)
                progress(len(chunk))
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ValueError) as error:
        raise UserError(f"data.url={url} cannot be fetched ({error}); put a copy at data.path={file}") from error


def from_files(data: DataConfig) -> Source:
    """The files of data.path, which data.url brings where they are not there yet."""
    require(bool(data.path), "data=files needs data.path=FILE, a folder of text files, or a glob")
    path = str(data.path)
    if data.url and not expand_path(path, "data.path").exists():
        fetch(data.url, expand_path(path, "data.path"))
    held_out = find_files(data.val_path, "data.val_path") if data.val_path else []
    return files(data, path, but={file.resolve() for file in held_out})


def from_hub(data: DataConfig) -> Source:
    """The dataset data.name of the Hub."""
    require(bool(data.name), "data=hub needs data.name=NAME, such as roneneldan/TinyStories")
    return hub.dataset(data, data.split)


def built_in(text: Callable[[], str]) -> Callable[[DataConfig], Source]:
    """A text of our own as a source."""
    return lambda data: source_of(text())


SOURCES: dict[str, Callable[[DataConfig], Source]] = {
    "python_docs": built_in(python_docs),
    "files": from_files,
    "hub": from_hub,
    "repeats": built_in(repeats),
}
