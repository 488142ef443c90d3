"""Write files that appear complete or not at all, and CSV tables that a resumed run can cut back to its step."""

from __future__ import annotations

import csv
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from headwise.console import say
from headwise.errors import UserError, require


def expand_path(text: str, key: str) -> Path:
    """Return the path that a user wrote, with ~ expanded. Raise UserError, naming `key`, if it cannot be."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise UserError(f"{key}={text}: {error}") from error


def relative_to_cwd(path: Path) -> Path:
    """Return the path as a user would write it: relative to the current folder if it lies below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def output_path(text: str, key: str, *endings: str) -> Path:
    """Return the path of a file to be written. Raise UserError, naming `key`, if its name does not end in one of
    `endings` or it could not be written, so that this is known before any work is done."""
    require(bool(text), f"{key}= is empty; give a file's name")
    path = expand_path(text, key)
    require(not path.is_dir(), f"{key}={text} is a folder; give a file's name")
    require(path.suffix.lower() in endings, f"{key}={text} must end in {endings[0]}")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    writable = folder.is_dir() and os.access(folder, os.W_OK)
    require(writable, f"{key}={text} cannot be written: {folder} is not a writable folder")
    return path


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to: renamed to `path` when the block ends, or removed after an error."""
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
        with suppress(OSError):  # its folder may not be writable
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder to fill: renamed to `path` when the block ends, or removed after an error. Raise
    OSError if `path` exists and is not empty."""
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


def remove_if_empty(folder: Path) -> None:
    """Remove a folder if nothing is in it."""
    with suppress(OSError):  # it is not empty, or belongs to somebody else
        folder.rmdir()


@contextmanager
def locked_folder(folder: Path, key: str) -> Iterator[None]:
    """Lock a folder for this process during the block. Raise UserError, naming `key`, if another process holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / ".lock"
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
        remove_if_empty(folder)


@contextmanager
def locked_file(file: Path, message: str) -> Iterator[None]:
    """Lock `file` during the block. If another process has the lock, print the message and wait; the lock of a process
    that dies is released."""
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(message)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def naming_file(file: Path) -> Iterator[None]:
    """Add the file's name to an OSError without one, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(file)
        raise


def checksum(file: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, completely or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


class CsvTable:
    """A CSV file that grows by rows and starts with the given columns, `step` among them."""

    def __init__(self, path: Path, columns: list[str]):
        self.path, self.columns = path, columns

    def keep_until(self, step: int) -> None:
        """Write the header and keep the rows up to `step`; create the file if there is none. A resumed run writes the
        later rows again."""
        with atomic_write(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns, restval="", extrasaction="ignore")
            writer.writeheader()
            writer.writerows(row for row in self.rows() if int(row["step"]) <= step)

    def append(self, rows: list[dict]) -> None:
        """Add rows; a column that a row lacks stays empty."""
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns, restval="").writerows(rows)

    def rows(self) -> list[dict[str, str]]:
        """Return all rows, as text, without a last one that is incomplete. Raise UserError if the file is damaged."""
        if not self.path.exists():
            return []
        text = self.path.read_bytes().rpartition(b"\n")[0].decode("utf-8", "replace")
        rows = list(csv.DictReader(text.replace("\0", "?").splitlines()))
        for line, row in enumerate(rows, start=2):
            complete = None not in row and None not in row.values() and row.get("step", "").isdecimal()
            require(complete, f"{self.path} is damaged in line {line}; repair that line, or move the file away")
        return rows
