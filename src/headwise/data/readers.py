"""Read files as pieces of documents, by how their names end: a .txt or .md file is one document; .jsonl, .csv and
.parquet have one in each row. All but .parquet may be compressed: .gz, .zst.

    for piece in read_file(Path("talks.jsonl.gz"), column="text"):
        ...     # piece.ends_document is true for the last piece of each document

Text must be UTF-8 and stays exactly as it is, line endings included.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import json
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from glob import glob
from pathlib import Path
from typing import IO, Any, cast

from headwise.errors import UserError, first_line, require
from headwise.files import expand_path
from headwise.tokenizer import SURROGATES, Piece

CHUNK = 1 << 20  # bytes read at a time
ROWS = 256  # of a .parquet file, read at a time
COMPRESSED = (".gz", ".zst")
NOT_UTF8 = "{} is not UTF-8 at byte {}; convert it, for example with iconv"


def read_file(file: Path, column: str = "text") -> Iterator[Piece]:
    """Yield the documents of a file in pieces. Raise UserError, with the place, for what is not text or not in the
    file's format."""
    empty = True
    for piece in READERS[file_format(file)](file, column):
        empty = empty and not piece.text
        yield piece
    require(not empty, f"{file} {'contains no text' if file.stat().st_size else 'is empty'}")


def file_format(file: Path) -> str:
    """Return the end of the name without that of the compression: the key of READERS, or something else if the file
    cannot be read."""
    name = file.name.lower()
    bare = next((name.removesuffix(end) for end in COMPRESSED if name.endswith(end)), name)
    end = Path(bare).suffix
    return "" if bare != name and end == ".parquet" else end


def find_files(path: str, key: str) -> list[Path]:
    """Return the files that `path` names (a file, a folder or a glob). Raise UserError, naming `key`, if there are
    none or one of them cannot be read by its name."""
    place = expand_path(path, key)
    formats = f"{' '.join(READERS)}; also {' '.join(COMPRESSED)}"
    if place.is_dir():
        found = sorted(file for file in place.rglob("*") if file.is_file() and file_format(file) in READERS)
        require(bool(found), f"{key}={path} is a folder without text files ({formats})")
    else:
        matches = [place] if place.is_file() else sorted(map(Path, glob(str(place), recursive=True)))
        found = [file for file in matches if file.is_file()]
        here = "" if place.is_absolute() else f" in {Path.cwd()}"
        require(bool(found), f"{key}={path} names no file{here}; give a text file, a folder of them, or a glob")
    for file in found:
        require(file_format(file) in READERS, f"{key}={path} names {file.name}; what can be read is {formats}")
    return found


def read_characters(file: Path) -> Iterator[str]:
    """Yield the text of a file in parts. Raise UserError at the first byte that is not UTF-8."""
    decoder, at = codecs.getincrementaldecoder("utf-8")(), 0
    with open_file(file) as raw:
        while True:
            try:
                chunk = raw.read(CHUNK)
            except (OSError, EOFError, zlib.error) as error:  # OSError: pyarrow's for what is not zstd, too
                raise UserError(f"{file} cannot be decompressed ({error})") from error
            at += len(chunk)
            try:
                text = decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                place = at - len(error.object) + error.start
                raise UserError(NOT_UTF8.format(file, place)) from error
            require("\0" not in text, f"{file} contains zero bytes, so it is not text")
            if text:
                yield text
            if not chunk:
                break


def decode_utf8(raw: bytes, what: str) -> str:
    """Return UTF-8 bytes as text. Raise UserError, naming `what`, at the first byte that is not UTF-8."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(NOT_UTF8.format(what, error.start)) from error


def open_file(file: Path) -> IO[bytes]:
    """Return the bytes of a file, decompressed."""
    if file.suffix.lower() == ".gz":
        return cast(IO[bytes], gzip.open(file, "rb"))
    if file.suffix.lower() == ".zst":
        import pyarrow

        file.open("rb").close()  # raises Python's own error if it cannot be opened
        return pyarrow.input_stream(str(file), compression="zstd")
    return file.open("rb")


def read_lines(file: Path) -> Iterator[str]:
    """Yield the lines of a file with their endings, without a byte order mark before the first."""
    held: list[str] = []  # the line so far
    start = "\N{BYTE ORDER MARK}"
    for text in read_characters(file):
        *full, last = text.removeprefix(start).split("\n")
        for line in full:
            yield "".join([*held, line, "\n"])
            held = []
        held.append(last)
        start = ""
    yield from filter(None, ["".join(held)])


def row_document(value: Any, place: str) -> Iterator[Piece]:
    """Yield the text of a row, which is a document unless it is empty. Raise UserError, naming `place`, if it is not
    text."""
    require(value is None or isinstance(value, str), f"{place} is not text but {value!r:.40}")
    surrogate = SURROGATES.search(value or "")  # which JSON can spell
    require(not surrogate, f"{place} contains {surrogate and surrogate[0]!r}, half of a surrogate pair")
    if value:
        yield Piece(value, ends_document=True)


def read_plain_text(file: Path, column: str) -> Iterator[Piece]:
    """Yield the whole file as one document."""
    for text in read_characters(file):
        yield Piece(text)
    yield Piece("", ends_document=True)


def read_json_lines(file: Path, column: str) -> Iterator[Piece]:
    """Yield the documents of a file with a JSON object in each line."""
    for number, line in enumerate(read_lines(file), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{file} is not JSON in line {number} ({error})") from error
        require(isinstance(row, dict), f"{file} has no JSON object in line {number}")
        find_column(column, row, f"{file}, line {number},")
        yield from row_document(row[column], f"{file}, line {number}, {column}")


def read_csv(file: Path, column: str) -> Iterator[Piece]:
    """Yield the documents of comma-separated rows below a line of names (RFC 4180)."""
    csv.field_size_limit(sys.maxsize)  # a field may be a book
    rows = csv.reader(read_lines(file), strict=True)
    try:
        names = next(rows, [])
        if names:
            find_column(column, names, f"{file}, line 1,")
            require(names.count(column) == 1, f"{file} has several columns {column}; rename all but one")
        for row in filter(None, rows):
            place = f"{file}, line {rows.line_num},"
            require(len(row) == len(names), f"{place} has {len(row)} fields, but line 1 has {len(names)}")
            yield from row_document(row[names.index(column)], place)
    except csv.Error as error:
        raise UserError(f"{file} is not CSV in line {rows.line_num} ({error})") from error


def read_parquet(file: Path, column: str) -> Iterator[Piece]:
    """Yield the documents of a column of an Apache Parquet file."""
    import pyarrow
    from pyarrow import parquet

    require(file.stat().st_size > 0, f"{file} is empty")
    number = 0
    try:
        with parquet.ParquetFile(file) as table:
            find_column(column, table.schema_arrow.names, f"{file}")
            for batch in table.iter_batches(batch_size=ROWS, columns=[column]):
                for value in batch.column(0).to_pylist():
                    number += 1
                    yield from row_document(value, f"{file}, row {number}, {column}")
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{file} cannot be read as Parquet after row {number} ({first_line(error)})") from error


def join_rows(rows: Iterable[Piece]) -> Iterator[Piece]:
    """Yield all documents as a single one, with a line break after each that does not end with one."""
    last = "\n"
    for text, ends_document in rows:
        last = text or last
        yield Piece(f"{text}\n" if ends_document and not last.endswith("\n") else text)
    yield Piece("", ends_document=True)


def first_documents(pieces: Iterable[Piece], count: int | None) -> Iterator[Piece]:
    """Yield the first `count` documents; None: all."""
    done = 0
    for piece in pieces:
        yield piece
        if piece.ends_document:
            done += 1
            if done == count:
                break


def find_column(column: str, names: Any, place: str) -> None:
    """Raise UserError unless the column is one of the names."""
    listed = ", ".join(map(str, names))
    require(column in names, f"{place} has no column {column}; give one of its columns: {listed}")


READERS: dict[str, Callable[[Path, str], Iterator[Piece]]] = {
    ".txt": read_plain_text,
    ".md": read_plain_text,
    ".jsonl": read_json_lines,
    ".csv": read_csv,
    ".parquet": read_parquet,
}
