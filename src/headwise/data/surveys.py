"""What a text was found to be, remembered, so that one that has not changed need not be read again to know it.

A text that came from files is the same as long as their places, sizes and times are.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from headwise.files import write_text

FORMAT = 1  # raise it when a survey comes to hold or mean something else
FRESH = 2  # seconds within which a file may change again without its time showing it


def once(files: Iterable[Path], settings: list, cache_dir: str, survey: Callable[[], dict]) -> dict:
    """What `survey` finds of these files, read with these settings, in plain values: remembered, or found now."""
    stats = [(str(file.absolute()), file.stat()) for file in files]
    seen = [(name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for name, stat in stats]
    key = hashlib.sha256(json.dumps([FORMAT, settings, seen]).encode()).hexdigest()[:16]
    file = Path(cache_dir) / "surveys" / f"{key}.json"
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        began, found = time.time(), survey()
    if all(stat.st_ctime < began - FRESH for _, stat in stats):
        write_text(file, json.dumps(found))
    return found
