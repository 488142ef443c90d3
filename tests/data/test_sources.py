"""Where text comes from, how it is split, and what is said when it is not there."""

import gzip
import json
import sys

import pytest

from headwise.config import DataConfig
from headwise.data import sources as text_module
from headwise.data import surveys
from headwise.data.readers import read_file
from headwise.data.sources import library_sources, python_docs, read_text
from headwise.errors import UserError
from headwise.stream import END, whole
from tests.hub import FILES, hub_here


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def read(path, val_path=None, val_fraction=0.1, **settings):
    path, val_path = (p if p is None else str(p) for p in (path, val_path))
    return read_text(DataConfig("files", path=path, val_path=val_path, val_fraction=val_fraction, **settings))


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_the_built_in_text_is_a_real_one():
    text = python_docs()
    assert len(text) > 300_000
    assert 60 < len(set(text)) < 300


def test_a_python_without_help_topics_gives_its_library_instead(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data", None)
    monkeypatch.delitem(sys.modules, "pydoc_data.topics", raising=False)
    assert python_docs() == library_sources()
    assert 300_000 < len(library_sources()) < 900_000


def test_the_last_tenth_of_the_characters_is_held_out(tmp_path):
    content = "".join(chr(97 + i % 26) for i in range(1117))
    text = read(write(tmp_path / "a.txt", content))
    assert whole(text.train) + whole(text.val) == content
    assert len(whole(text.train)) == int(1117 * 0.9)


def test_a_folder_and_a_glob_give_their_files_in_name_order(tmp_path):
    write(tmp_path / "b.txt", "second\n")
    write(tmp_path / "a.txt", "first")
    write(tmp_path / "deep/c.txt", "third")
    write(tmp_path / "ignored.py", "no")
    write(tmp_path / "a.md", "held out")
    (tmp_path / "folder.txt").mkdir()
    for path in (tmp_path, tmp_path / "**/*.txt"):
        text = read(path, tmp_path / "a.md")
        assert list(text.train.read()) == ["first", END, "second\n", END, "third", END]
        assert text.train.documents == 3


def test_documents_held_out_are_whole_evenly_spaced_and_none_of_the_others(tmp_path):
    rows = [f"row {i}" for i in range(101)]
    write(tmp_path / "a.jsonl", "".join(json.dumps({"text": row}) + "\n" for row in rows))
    text = read(tmp_path, split_by="documents", val_fraction=0.2)
    train, val = ([piece for piece in half.read() if piece] for half in text)
    assert val == rows[4:100:5]
    assert sorted(train + val) == sorted(rows)
    assert list(text.val.read())[1::2] == [END] * 20
    with pytest.raises(UserError, match=r"data.val_fraction=0.001 of 101 documents is not one"):
        read(tmp_path, split_by="documents", val_fraction=0.001)
    with pytest.raises(UserError, match=r"data.split_by=documents needs several documents; the text is a single one"):
        read(write(tmp_path / "one.txt", "one"), split_by="documents")
    with pytest.raises(UserError, match=r"data.split_by=docments is none of characters, documents; did you mean"):
        read(tmp_path, split_by="docments")


def test_only_the_first_documents_are_read(tmp_path):
    for name, rows in (("a.jsonl", "one two three"), ("b.jsonl", "four five"), ("c.jsonl", "six")):
        write(tmp_path / name, "".join(json.dumps({"text": row}) + "\n" for row in rows.split()))
    write(tmp_path / "d.jsonl", "bad, and not needed")
    write(tmp_path / "e.txt", "held out")
    text = read(tmp_path, tmp_path / "e.txt", max_documents=4)
    assert list(filter(None, text.train.read())) == ["one", "two", "three", "four"]
    assert (text.train.characters, text.train.documents) == (15, 4)


def test_rows_as_lines_are_one_document_and_the_column_can_be_named(tmp_path):
    write(tmp_path / "a.csv", "id,line\n1,so they left\n2, right away\n")
    write(tmp_path / "b.csv", "line\nbefore\n")
    text = read(tmp_path / "b.csv", tmp_path / "a.csv", join_rows=True, column="line")
    assert list(text.val.read()) == ["so they left", "\n", " right away", "\n", END]
    assert text.val.documents == 1


def test_a_file_that_is_not_there_yet_is_fetched_once_and_whole(tmp_path, capsys):
    file = tmp_path / "deep/card.md"
    with hub_here() as address:
        url = f"{address}/datasets/me/stories/resolve/main/README.md"
        text = read(file, url=url)
        assert whole(text.train) + whole(text.val) == FILES["README.md"].decode()
        with pytest.raises(UserError, match=r"data.url=.*nothing cannot be fetched \(HTTP Error 404.*put a copy at"):
            read(tmp_path / "b.txt", url=f"{address}/nothing")
    assert "fetching" in capsys.readouterr().err
    read(file, url=url)  # where nobody answers any more
    with pytest.raises(UserError, match=r"put a copy at data.path="):
        read(tmp_path / "b.txt", url=url)
    with pytest.raises(UserError, match="must begin with https"):
        read(tmp_path / "b.txt", url="file:///etc/passwd")
    assert not (tmp_path / "b.txt").exists()


def test_files_that_have_not_changed_are_not_read_again(tmp_path, monkeypatch, capsys):
    file = write(tmp_path / "a.txt", "the kids were scared")
    monkeypatch.setattr(surveys, "FRESH", -1)
    first = read(file).train
    monkeypatch.setattr(text_module, "survey", None)
    again = read(file).train
    assert (again.fingerprint, again.characters, whole(again)) == (first.fingerprint, 18, "the kids were scar")
    monkeypatch.undo()
    write(file, "the kids were brave!")
    assert read(file).train.fingerprint != first.fingerprint


def test_a_file_that_has_just_changed_is_not_trusted_to_stay(tmp_path):
    file = write(tmp_path / "a.txt", "the kids were scared")
    read(file)
    assert not (tmp_path / "data").exists()


def test_a_damaged_memory_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(surveys, "FRESH", -1)
    file = write(tmp_path / "a.txt", "the kids were scared")
    first = read(file).train
    for memory in (tmp_path / "data/cache/surveys").iterdir():
        for damage in ("{", "{}", "[]", ""):
            memory.write_text(damage)
            assert read(file).train.fingerprint == first.fingerprint


def test_markdown_and_packed_files_are_read_too(tmp_path):
    write(tmp_path / "a.md", "# first")
    write(tmp_path / "b.txt.gz", gzip.compress("zweite ß".encode()))
    write(tmp_path / "c.md", "held out")
    text = read(tmp_path, tmp_path / "c.md")
    assert [piece for piece in text.train.read() if piece] == ["# first", "zweite ß"]


def test_what_is_held_out_is_left_out_of_the_folder_that_holds_it(tmp_path):
    for name in ("train.txt", "deep/val.txt"):
        write(tmp_path / name, name)
    text = read(tmp_path, tmp_path / "deep/../deep/val.txt")
    assert [whole(half) for half in text] == ["train.txt", "deep/val.txt"]
    with pytest.raises(UserError, match=r"data.path=.*train.txt names nothing beside the text that is held out"):
        read(tmp_path / "train.txt", tmp_path / "*.txt")


def test_a_file_that_changes_is_noticed(tmp_path):
    file = write(tmp_path / "a.txt", "the kids were scared")
    text = read(file)
    text.train.check()
    write(file, "the kids were brave!")
    for half in text:
        with pytest.raises(UserError, match=r"data.path=.*a.txt has changed while it was read"):
            half.check()
    file.unlink()
    with pytest.raises(UserError, match="has changed"):
        text.val.check()


def test_every_bad_file_is_named_and_can_be_left_out(tmp_path, capsys):
    write(tmp_path / "a.txt", "good")
    write(tmp_path / "b.txt", "")
    write(tmp_path / "c.txt", b"\x7fELF\x00\x01")
    write(tmp_path / "d.txt", "é" * (1 << 20) + "x")
    (tmp_path / "d.txt").open("ab").write(b"\xc3")
    write(tmp_path / "e.txt.gz", b"no gzip")
    with pytest.raises(UserError) as error:
        read(tmp_path, None, 0.5)
    for problem in (
        "b.txt is empty",
        "c.txt holds zero bytes",
        f"d.txt is not UTF-8 at byte {(2 << 20) + 1}",
        "e.txt.gz cannot be unpacked",
        "data.skip_bad=true",
    ):
        assert problem in str(error.value)
    text = read(tmp_path, None, 0.5, skip_bad=True)
    assert whole(text.train) + whole(text.val) == "good"
    assert "left out" in capsys.readouterr().err


def test_a_character_may_lie_across_two_reads(tmp_path, monkeypatch):
    monkeypatch.setattr("headwise.data.sources.CHUNK", 3)
    path = write(tmp_path / "a.txt", "aé🦁日本\r\n")
    assert "".join(piece for piece in read_file(path) if piece) == "aé🦁日本\r\n"


def test_line_endings_stay_as_they_are(tmp_path):
    path = write(tmp_path / "a.txt", b"one\r\ntwo\rthree\n" * 5)
    assert "".join(map(whole, read(path, None, 0.5))) == "one\r\ntwo\rthree\n" * 5


def test_a_validation_file_is_used_whole(tmp_path):
    a, b = write(tmp_path / "a.txt", "training"), write(tmp_path / "b.txt", "validation")
    assert tuple(map(whole, read(a, b))) == ("training", "validation")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"good \xff bad", "is not UTF-8 at byte 5"),
        (b"", "is empty"),
        (b" \n \n", "holds no text"),
        (b"abcd", r"is too short: 1 character\(s\); give more text or data.val_path"),
    ],
)
def test_a_text_that_cannot_be_used_is_refused(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        read(write(tmp_path / "a.txt", content))


def test_missing_files_are_refused_with_the_key_that_named_them(tmp_path):
    with pytest.raises(UserError, match=r"data=files needs data\.path="):
        read(None)
    with pytest.raises(UserError, match=r"data\.path=.*nowhere names no file"):
        read(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"data\.path=.* is a folder without text files"):
        read(tmp_path)
    path = str(write(tmp_path / "a.txt", "text"))
    with pytest.raises(UserError, match=r"data\.val_path=.*x names no file"):
        read(path, tmp_path / "x")
    with pytest.raises(
        UserError, match=r"names b\.py; what can be read is \.txt \.md \.jsonl \.csv \.parquet; also \.gz \.zst"
    ):
        read(write(tmp_path / "b.py", "text"))
