"""Read files as pieces of documents, by how their names end or in a given format: a .txt or .md file is one document;
.jsonl, .csv and .parquet have one in each row. All but .parquet may be compressed: .gz, .zst.

    for piece in read_file(Path("talks.jsonl.gz"), column="text"):
        ...     # piece.ends_document is true for the last piece of each document

Text must be UTF-8 and stays exactly as it is, line endings included, but for a byte order mark at its start.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import json
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from glob import glob
from itertools import chain
from pathlib import Path
from typing import IO, Any, cast

from headwise.errors import UserError, choose, first_line, require
from headwise.files import expand_path
from headwise.tokenizer import SURROGATES, Piece

CHUNK = 1 << 20  # bytes read at a time
ROWS = 256  # of a .parquet file, read at a time
COMPRESSED = (".gz", ".zst")
NOT_UTF8 = "{} is not UTF-8 at byte {}; convert it, for example with iconv"
FORMATS = {"text": ".txt", "jsonl": ".jsonl", "csv": ".csv", "parquet": ".parquet"}  # data.format -> key of READERS
LIKELY_COLUMNS = ("text", "content", "body", "document", "article", "story", "sentence", "passage")


def read_file(
    file: Path, column: str = "text", format: str = "auto", skipped: list[str] | None = None
) -> Iterator[Piece]:
    """Yield the documents of a file in pieces. Raise UserError, with the place, for what is not text or not in the
    file's format. With a list `skipped`, rows that cannot be read are left out instead, and the reasons are added to
    it."""
    empty = True
    for piece in READERS[FORMATS.get(format) or file_format(file)](file, column, skipped):
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


def find_files(path: str, key: str, format: str = "auto") -> list[Path]:
    """Return the files that `path` names (a file, a folder or a glob); of a folder, with format=auto those whose names
    tell how to read them, otherwise all that are not hidden. Raise UserError, naming `key`, if there are none or one
    of them cannot be read by its name."""
    choose("data.format", format, {"auto": "", **FORMATS})
    place = expand_path(path, key)
    formats = f"{' '.join(READERS)}; also {' '.join(COMPRESSED)}"
    if place.is_dir():
        inside = (file for file in place.rglob("*") if file.is_file() and not file.name.startswith("."))
        found = sorted(file for file in inside if format != "auto" or file_format(file) in READERS)
        require(bool(found), f"{key}={path} is a folder without text files ({formats})")
    else:
        matches = [place] if place.is_file() else sorted(map(Path, glob(str(place), recursive=True)))
        found = [file for file in matches if file.is_file()]
        here = "" if place.is_absolute() else f" in {Path.cwd()}"
        require(bool(found), f"{key}={path} names no file{here}; give a text file, a folder of them, or a glob")
    for file in found if format == "auto" else []:
        rule = f"what can be read by its name is {formats}; data.format=text reads any text file"
        require(file_format(file) in READERS, f"{key}={path} names {file.name}; {rule}")
    return found


def read_characters(file: Path) -> Iterator[str]:
    """Yield the text of a file in parts, without a byte order mark at its start. Raise UserError at the first byte that
    is not UTF-8."""
    decoder, at = codecs.getincrementaldecoder("utf-8-sig")(), 0
    with open_file(file) as raw:
        while True:
            try:
                chunk = raw.read(CHUNK)
            except (OSError, EOFError, zlib.error) as error:  # OSError: pyarrow's for what is not zstd, too
                raise UserError(f"{file} cannot be decompressed ({error})") from error
            is_utf16 = at == 0 and chunk[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
            require(not is_utf16, f"{file} is UTF-16; convert it with iconv -f UTF-16 -t UTF-8")
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
    """Yield the lines of a file with their endings."""
    held: list[str] = []  # the line so far
    for text in read_characters(file):
        *full, last = text.split("\n")
        for line in full:
            yield "".join([*held, line, "\n"])
            held = []
        held.append(last)
    yield from filter(None, ["".join(held)])


def row_document(value: Any, place: str) -> Iterator[Piece]:
    """Yield the text of a row, which is a document unless it is empty. Raise UserError, naming `place`, if it is not
    text."""
    require(value is None or isinstance(value, str), f"{place} is not text but {value!r:.40}")
    surrogate = SURROGATES.search(value or "")  # which JSON can spell
    require(not surrogate, f"{place} contains {surrogate and surrogate[0]!r}, half of a surrogate pair")
    if value:
        yield Piece(value, ends_document=True)


def row_pieces(make: Callable[[], Iterator[Piece]], skipped: list[str] | None) -> list[Piece]:
    """Return the pieces of a row. If it cannot be read, raise UserError, or add the reason to `skipped`."""
    try:
        return list(make())
    except UserError as error:
        if skipped is None:
            raise
        skipped.append(str(error))
        return []


def read_plain_text(file: Path, column: str, skipped: list[str] | None) -> Iterator[Piece]:
    """Yield the whole file as one document."""
    for text in read_characters(file):
        yield Piece(text)
    yield Piece("", ends_document=True)


def read_json_lines(file: Path, column: str, skipped: list[str] | None) -> Iterator[Piece]:
    """Yield the documents of a file with a JSON object in each line."""
    for number, line in enumerate(read_lines(file), start=1):
        if line.strip():
            yield from row_pieces(partial(json_document, line, column, file, number), skipped)


def json_document(line: str, column: str, file: Path, number: int) -> Iterator[Piece]:
    """Yield the document of a line of JSON. Raise UserError if it has none."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not JSON in line {number} ({error})") from error
    require(isinstance(row, dict), f"{file} has no JSON object in line {number}")
    find_column(column, row, f"{file}, line {number},")
    yield from row_document(row[column], f"{file}, line {number}, {column}")


def delimiter_of(header: str, column: str) -> str:
    """Return what separates the names of a CSV file's first line: a comma, unless the column is found only between
    semicolons or tabs, or there are more names between them."""
    names = {delimiter: next(csv.reader([header], delimiter=delimiter), []) for delimiter in ",;\t"}
    return max(names, key=lambda delimiter: (column in names[delimiter], len(names[delimiter])))


def read_csv(file: Path, column: str, skipped: list[str] | None) -> Iterator[Piece]:
    """Yield the documents of rows of fields between commas, semicolons or tabs, below a line of names (RFC 4180)."""
    csv.field_size_limit(sys.maxsize)  # a field may be a book
    lines = read_lines(file)
    header = next(lines, "")
    rows = csv.reader(chain([header], lines), strict=True, delimiter=delimiter_of(header, column))
    try:
        names = next(rows, [])
        if names:
            find_column(column, names, f"{file}, line 1,")
            require(names.count(column) == 1, f"{file} has several columns {column}; rename all but one")
        for row in filter(None, rows):
            yield from row_pieces(partial(csv_document, row, names, column, f"{file}, line {rows.line_num},"), skipped)
    except csv.Error as error:
        raise UserError(f"{file} is not CSV in line {rows.line_num} ({error})") from error


def csv_document(row: list[str], names: list[str], column: str, place: str) -> Iterator[Piece]:
    """Yield the document of a row. Raise UserError, naming `place`, if its fields are not those of the names."""
    require(len(row) == len(names), f"{place} has {len(row)} fields, but line 1 has {len(names)}")
    yield from row_document(row[names.index(column)], place)


def read_parquet(file: Path, column: str, skipped: list[str] | None) -> Iterator[Piece]:
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
                    yield from row_pieces(partial(row_document, value, f"{file}, row {number}, {column}"), skipped)
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
    """Raise UserError, which names a likely one, unless the column is one of the names."""
    known = list(map(str, names))
    likely = next((name for word in LIKELY_COLUMNS for name in known if name.lower() == word), (known or ["NAME"])[-1])
    advice = f"give data.column={likely} (--column {likely} in evaluate)"
    require(column in names, f"{place} has no column {column}, only {', '.join(known)}; {advice}")


READERS: dict[str, Callable[[Path, str, list[str] | None], Iterator[Piece]]] = {
    ".txt": read_plain_text,
    ".md": read_plain_text,
    ".jsonl": read_json_lines,
    ".csv": read_csv,
    ".parquet": read_parquet,
}
