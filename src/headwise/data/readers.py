"""Files as streams of documents, by how their names end: .txt and .md are a document each; .jsonl, .csv and .parquet
have one in each row. All but .parquet may be packed: .gz, .zst.

    for piece in read_file(Path("talks.jsonl.gz"), column="text"):
        ...     # END after each document

UTF-8 alone, exactly as it stands, line endings included.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import json
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast

from headwise.errors import UserError, require
from headwise.stream import END, Stream
from headwise.tokenizer import SURROGATES

CHUNK = 1 << 20  # bytes read at a time
ROWS = 256  # of a .parquet file, read at a time
PACKED = (".gz", ".zst")
NOT_UTF8 = "{} is not UTF-8 at byte {}; convert it, for example with iconv"


def read_file(file: Path, column: str = "text") -> Stream:
    """A file's content, a piece at a time, END after each document. Raises UserError for what is no text, or not in
    that format, saying where."""
    empty = True
    for piece in READERS[ending(file)](file, column):
        empty = empty and not piece
        yield piece
    require(not empty, f"{file} {'holds no text' if file.stat().st_size else 'is empty'}")


def ending(file: Path) -> str:
    """What the format is known by: the end of the name, without that of its packing."""
    name = file.name.lower()
    bare = next((name.removesuffix(packed) for packed in PACKED if name.endswith(packed)), name)
    end = Path(bare).suffix
    return "" if bare != name and end == ".parquet" else end


def is_known(file: Path) -> bool:
    """Whether the file can be read, by its name."""
    return ending(file) in READERS


def characters(file: Path) -> Iterator[str]:
    """A file as text, a piece at a time. Raises UserError at the first byte that is not UTF-8."""
    decoder, at = codecs.getincrementaldecoder("utf-8")(), 0
    with unpacked(file) as raw:
        while True:
            try:
                chunk = raw.read(CHUNK)
            except (OSError, EOFError, zlib.error) as error:  # OSError: also pyarrow's for what is no zstd
                raise UserError(f"{file} cannot be unpacked ({error})") from error
            at += len(chunk)
            try:
                text = decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                place = at - len(error.object) + error.start
                raise UserError(NOT_UTF8.format(file, place)) from error
            require("\0" not in text, f"{file} holds zero bytes, so that it is no text")
            if text:
                yield text
            if not chunk:
                break


def decoded(raw: bytes, what: str) -> str:
    """UTF-8 as text. Raises UserError at the first byte that is none; `what` names where it came from."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(NOT_UTF8.format(what, error.start)) from error


def unpacked(file: Path) -> IO[bytes]:
    """The file's bytes, whatever packed them."""
    if file.suffix.lower() == ".gz":
        return cast(IO[bytes], gzip.open(file, "rb"))
    if file.suffix.lower() == ".zst":
        import pyarrow

        file.open("rb").close()  # for Python's own words where it cannot be opened
        return pyarrow.input_stream(str(file), compression="zstd")
    return file.open("rb")


def lines(file: Path) -> Iterator[str]:
    """A file's lines, their endings included. A byte order mark before the first is left out."""
    held: list[str] = []  # the line so far
    start = "\N{BYTE ORDER MARK}"
    for text in characters(file):
        *full, last = text.removeprefix(start).split("\n")
        for line in full:
            yield "".join([*held, line, "\n"])
            held = []
        held.append(last)
        start = ""
    yield from filter(None, ["".join(held)])


def document(value: Any, place: str) -> Stream:
    """A row's text; a row without any is no document."""
    require(value is None or isinstance(value, str), f"{place} is no text but {value!r:.40}")
    half = SURROGATES.search(value or "")  # which JSON can spell
    require(not half, f"{place} holds {half and half[0]!r}, which is half a character")
    if value:
        yield value
        yield END


def read_text(file: Path, column: str) -> Stream:
    """The whole file, one document."""
    yield from characters(file)
    yield END


def read_json_lines(file: Path, column: str) -> Stream:
    """An object in each line."""
    for number, line in enumerate(lines(file), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{file} is no JSON in line {number} ({error})") from error
        require(isinstance(row, dict), f"{file} holds no object in line {number}")
        find_column(column, row, f"{file}, line {number},")
        yield from document(row[column], f"{file}, line {number}, {column}")


def read_csv(file: Path, column: str) -> Stream:
    """Comma-separated rows below a line of names (RFC 4180)."""
    csv.field_size_limit(sys.maxsize)  # a field may be a book
    rows = csv.reader(lines(file), strict=True)
    try:
        names = next(rows, [])
        if names:
            find_column(column, names, f"{file}, line 1,")
            require(names.count(column) == 1, f"{file} has several columns {column}; rename all but one")
        for row in filter(None, rows):
            place = f"{file}, line {rows.line_num},"
            require(len(row) == len(names), f"{place} has {len(row)} fields and line 1 {len(names)}")
            yield from document(row[names.index(column)], place)
    except csv.Error as error:
        raise UserError(f"{file} is no CSV in line {rows.line_num} ({error})") from error


def read_parquet(file: Path, column: str) -> Stream:
    """A column of an Apache Parquet file."""
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
                    yield from document(value, f"{file}, row {number}, {column}")
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
        why = str(error).splitlines()[0]
        raise UserError(f"{file} cannot be read as Parquet after row {number} ({why})") from error


def as_lines(stream: Stream) -> Stream:
    """All documents of a stream as one. Each ends with a line break, which is added where it has none."""
    last = "\n"
    for piece in stream:
        if piece is not END:
            yield piece
            last = piece
        elif not last.endswith("\n"):
            yield "\n"
    yield END


def find_column(column: str, names: Any, place: str) -> None:
    """Raise UserError unless the column is one of the names."""
    listed = ", ".join(map(str, names))
    require(column in names, f"{place} has no column {column} but {listed}; name one of these as the column")


READERS: dict[str, Callable[[Path, str], Stream]] = {
    ".txt": read_text,
    ".md": read_text,
    ".jsonl": read_json_lines,
    ".csv": read_csv,
    ".parquet": read_parquet,
}
