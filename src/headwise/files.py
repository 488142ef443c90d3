"""Files that appear whole or not at all, and tables that can be cut back."""

from __future__ import annotations

import csv
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from headwise.errors import UserError, require


def path_of(text: str, key: str) -> Path:
    """A path as a user wrote it, ~ included. `key` is where."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise UserError(f"{key}={text}: {error}") from error


def output_path(text: str, key: str, *endings: str) -> Path:
    """A file to be written, whose name ends in one of `endings`; checked before there is anything to write."""
    require(bool(text), f"{key}= is empty; give a file's name")
    path = path_of(text, key)
    require(not path.is_dir(), f"{key}={text} is a folder; give a file's name")
    require(path.suffix.lower() in endings, f"{key}={text} must end in {endings[0]}")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    require(
        folder.is_dir() and os.access(folder, os.W_OK), f"{key}={text} cannot be written: {folder} is no such place"
    )
    return path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary name to write to, which becomes `path` when the block ends well and vanishes when not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        if error.filename == str(temporary):
            error.filename = str(path)  # the name that the user knows
        raise
    finally:
        with suppress(OSError):  # where it could not be made it cannot be removed
            temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A temporary folder to fill, which becomes `path` when the block ends well and vanishes when not. Raises
    OSError if `path` is there by then and not empty."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        error.filename = str(path)  # the name that the user knows
        raise
    try:
        yield temporary
        temporary.chmod(0o755)  # mkdtemp made it private
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def leave_no_empty(folder: Path) -> None:
    """Remove a folder if nothing is in it."""
    with suppress(OSError):  # there is something, or it is not ours to remove
        folder.rmdir()


@contextmanager
def claimed(folder: Path, key: str) -> Iterator[None]:
    """Keep a folder, which `key` names, for this process. Raises UserError if another one that lives has it."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / ".claimed"
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(f"{key}={folder} is being written by another process; end that one, or wait for it") from error
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
        lock.release()
        leave_no_empty(folder)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, whole or not at all."""
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


class CsvTable:
    """A CSV file that grows by rows and starts with the given columns, `step` among them."""

    def __init__(self, path: Path, columns: list[str]):
        self.path, self.columns = path, columns

    def begin(self, step: int) -> None:
        """Keep the rows of steps up to `step`, as a resumed run has yet to make the others (again)."""
        with whole(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns, restval="", extrasaction="ignore")
            writer.writeheader()
            writer.writerows(row for row in self.rows() if int(row["step"]) <= step)

    def append(self, rows: list[dict]) -> None:
        """Add rows; a column that a row lacks stays empty."""
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns, restval="").writerows(rows)

    def rows(self) -> list[dict[str, str]]:
        """All rows, as text, but for one whose writing was cut short. Raises UserError where they are not rows."""
        if not self.path.exists():
            return []
        text = self.path.read_bytes().rpartition(b"\n")[0].decode("utf-8", "replace")
        rows = list(csv.DictReader(text.replace("\0", "?").splitlines()))
        for line, row in enumerate(rows, start=2):
            whole_row = None not in row and None not in row.values() and row.get("step", "").isdecimal()
            require(whole_row, f"{self.path} is damaged in line {line}; mend that line, or move the file away")
        return rows
