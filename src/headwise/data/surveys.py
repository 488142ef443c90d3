"""What a text was found to be, remembered, so that one that has not changed need not be read again to know it.

A text that came from files is the same as long as their places, sizes and times are.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from headwise.errors import UserError
from headwise.files import write_text

FORMAT = 1  # raise it when a survey comes to hold or mean something else
FRESH = 2  # seconds within which a file may change again without its time showing it

Stamp = list[tuple[str, int, int, int]]


def stamp(files: Iterable[Path]) -> Stamp:
    """Place, size and times of files."""
    stats = [(str(file.absolute()), file.stat()) for file in files]
    return [(name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for name, stat in stats]


def require_unchanged(files: Iterable[Path], seen: Stamp, what: str) -> None:
    """Raise UserError if the files are no longer what they were."""
    try:
        same = stamp(files) == seen
    except OSError:
        same = False
    if not same:
        raise UserError(f"{what} has changed while it was read; give it once more when it rests")


def once(seen: Stamp, settings: list, cache_dir: str, survey: Callable[[], dict]) -> dict:
    """What `survey` finds of these files, read with these settings, in plain values, a fingerprint among them:
    remembered, or found now. Nothing is remembered where `cache_dir` is empty, or cannot be written."""
    key = hashlib.sha256(json.dumps([FORMAT, settings, seen]).encode()).hexdigest()[:16]
    file = Path(cache_dir) / "surveys" / f"{key}.json"
    try:
        known = json.loads(file.read_text(encoding="utf-8")) if cache_dir else None
    except (OSError, ValueError):
        known = None
    if isinstance(known, dict) and "fingerprint" in known:
        return known
    began, found = time.time(), survey()
    if cache_dir and all(changed < (began - FRESH) * 1e9 for *_, changed in seen):
        with suppress(OSError):  # it will be found again
            write_text(file, json.dumps(found))
    return found
