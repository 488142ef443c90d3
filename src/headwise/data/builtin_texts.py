"""Return the texts that need no file: python_docs and repeats."""

from __future__ import annotations

import importlib.util
import random
import string
from pathlib import Path

# Read in this order if a Python has no help topics: about as long, and in every Python from 3.11 on.
FALLBACK_MODULES = """
argparse calendar configparser contextlib csv dataclasses difflib enum functools heapq optparse
""".split()  # noqa: SIM905
ALPHABET = string.ascii_letters + string.digits + "+-"  # 64 characters
SEGMENT, LINE, LINES = (8, 32), 96, 20_000  # characters in a segment, and in a line; lines


def python_docs() -> str:
    """Return the reference topics of Python's own help(), about 465,000 characters of English prose and grammar. Nearly
    every Python has them, and they differ a little between versions; without them, return library_sources()."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        return library_sources()
    return "\n\n".join(topics.values())


def library_sources() -> str:
    """Return the sources of FALLBACK_MODULES, as far as this Python has them as text."""
    specs = [importlib.util.find_spec(name) for name in FALLBACK_MODULES]
    files = [Path(s.origin) for s in specs if s and s.origin and s.origin.endswith(".py")]
    return "\n\n".join(file.read_text(encoding="utf-8") for file in files)


def repeats() -> str:
    """Return lines of 96 characters, each a random segment of 8 to 32 over and over, which only induction can predict
    (Olsson et al. 2022). The text is always the same.

    Within its first period nothing can be predicted, after that everything, by looking at what followed the same
    character before. Lines are short, so that a window often crosses into another: segments then begin at all places
    in it, and heads must work at all of them."""
    draw = random.Random(0)
    lines = []
    for _ in range(LINES):
        length = draw.randint(*SEGMENT)
        segment = "".join(draw.sample(ALPHABET, length))  # no character twice, so that what follows is certain
        lines.append((segment * (LINE // length + 1))[:LINE])
    return "\n".join(lines)
