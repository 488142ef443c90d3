"""Where text comes from, by name: python_docs and repeats (built in), files.

text = read_text("files", path="my.txt", val_path=None, val_fraction=0.1)
text.train, text.val
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from glob import glob
from pathlib import Path
from typing import NamedTuple

from headwise.data.repeats import repeats
from headwise.errors import UserError, choose, require

# Read in this order where a Python comes without its help topics: about as long, and in every Python from 3.11 on.
FALLBACK_MODULES = """
argparse calendar configparser contextlib csv dataclasses difflib enum functools heapq optparse
""".split()  # noqa: SIM905


class Text(NamedTuple):
    """A text in its two halves, which never overlap."""

    train: str
    val: str


def python_docs(path: str | None) -> str:
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
    return "\n\n".join(read_utf8(file) for file in files)


def files(path: str | None, key: str = "data.path") -> str:
    """The .txt files that `path` names (a file, a folder, or a glob), in name order, each but the last ending
    its line. `key` is where the user wrote the path."""
    require(bool(path), f"data=files needs {key}=FILE, a folder of .txt files, or a glob")
    *texts, last = [read_utf8(file) for file in find_files(str(path), key)]
    return "".join(t if t.endswith("\n") else t + "\n" for t in texts) + last


def find_files(path: str, key: str) -> list[Path]:
    """The files that `path` names; at least one, or a UserError."""
    place = Path(path).expanduser()
    if place.is_dir():
        found = sorted(file for file in place.rglob("*.txt") if file.is_file())
        require(bool(found), f"{key}={path} is a folder without .txt files")
    else:
        found = [place] if place.is_file() else sorted(Path(f) for f in glob(str(place), recursive=True))
        found = [f for f in found if f.is_file()]
        require(bool(found), f"{key}={path} names no file; give a .txt file, a folder of them, or a glob")
    for file in found:
        require(file.suffix == ".txt", f"{key}={path} names {file.name}; only .txt files can be read")
    return found


def read_utf8(file: Path) -> str:
    """The file's text with its line endings as they are. Raises UserError at the first byte that is not UTF-8."""
    return decoded(file.read_bytes(), str(file))


def decoded(raw: bytes, what: str) -> str:
    """UTF-8 as text. Raises UserError at the first byte that is none; `what` names where it came from."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        message = f"{what} is not UTF-8 at byte {error.start}; convert it, for example with iconv"
        raise UserError(message) from error


SOURCES: dict[str, Callable[[str | None], str]] = {"python_docs": python_docs, "files": files, "repeats": repeats}


def read_text(source: str, path: str | None, val_path: str | None, val_fraction: float) -> Text:
    """The text of a source, split: the last `val_fraction` of its characters is held out for validation, or
    all of `val_path` where that is given."""
    text = choose("data.source", source, SOURCES)(path)
    if val_path:
        halves = Text(text, files(val_path, "data.val_path"))
    else:
        require(0 < val_fraction < 1, f"data.val_fraction={val_fraction} must be above 0 and below 1")
        cut = int(len(text) * (1 - val_fraction))
        halves = Text(text[:cut], text[cut:])
    where = f"data.path={path}" if path else f"data={source}"
    require(bool(text.strip()), f"{where} holds no text")
    held = f"data.val_path={val_path}" if val_path else f"data.val_fraction={val_fraction} of {where}"
    for part, name in ((halves.train, f"{where} without the part held out"), (halves.val, held)):
        require(len(part) >= 2, f"{name} is too short: {len(part)} character(s); give more text or data.val_path")
    return halves
