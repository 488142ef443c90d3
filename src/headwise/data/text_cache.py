"""Remember texts from one read to the next: short ones in memory, and on disk what was learned of files that have not
changed since. Files are taken to be unchanged as long as their paths, sizes and times are.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from headwise.errors import UserError
from headwise.files import write_text
from headwise.tokenizer import Piece

FORMAT = 2  # raise it when the content or the meaning of a scan changes
FRESH = 2  # seconds within which a file may change again without a change of its modification time
MAX_KEPT = 1 << 26  # bytes of text that stay in memory

FileStates = list[tuple[str, int, int, int]]


class KeptPieces:
    """Keep what is read in memory, up to MAX_KEPT bytes, so that a short text is read only once."""

    def __init__(self) -> None:
        self.left, self.known = MAX_KEPT, dict[Path | str, list[Piece]]()

    def read(self, name: Path | str, read: Callable[[], Iterator[Piece]]) -> Iterator[Piece]:
        """Yield the pieces of `read`, from memory if it was read to its end before and was short enough."""
        if name in self.known:
            yield from self.known[name]
            return
        pieces: list[Piece] = []
        size = 0
        for piece in read():
            size += sys.getsizeof(piece.text) + sys.getsizeof(piece)
            if size <= self.left:
                pieces.append(piece)
            else:
                pieces.clear()
            yield piece
        if size <= self.left:
            self.left -= size
            self.known[name] = pieces


def file_states(files: Iterable[Path]) -> FileStates:
    """Return path, size and times of each file."""
    stats = [(str(file.absolute()), file.stat()) for file in files]
    return [(name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for name, stat in stats]


def require_unchanged(files: Iterable[Path], states: FileStates, what: str) -> None:
    """Raise UserError, naming `what`, if the files have other states now."""
    try:
        same = file_states(files) == states
    except OSError:
        same = False
    if not same:
        raise UserError(f"{what} changed while it was being read; run the command again when the files are complete")


def cached_scan(states: FileStates, settings: list, cache_dir: str, scan: Callable[[], dict]) -> dict:
    """Return what `scan` finds in files of these states with these settings (JSON values, `fingerprint` among them),
    from `cache_dir` if it was found before. Nothing is cached if `cache_dir` is empty or cannot be written."""
    key = hashlib.sha256(json.dumps([FORMAT, settings, states]).encode()).hexdigest()[:16]
    file = Path(cache_dir) / "scans" / f"{key}.json"
    try:
        known = json.loads(file.read_text(encoding="utf-8")) if cache_dir else None
    except (OSError, ValueError):
        known = None
    if isinstance(known, dict) and "fingerprint" in known:
        return known
    began, found = time.time(), scan()
    if cache_dir and all(changed < (began - FRESH) * 1e9 for *_, changed in states):
        with suppress(OSError):  # the next run scans again
            write_text(file, json.dumps(found))
    return found
