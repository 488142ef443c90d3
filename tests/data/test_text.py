"""Where text comes from, how it is split, and what is said when it is not there."""

import gzip
import sys

import pytest

from headwise.data.text import library_sources, python_docs, read_file, read_text
from headwise.errors import UserError
from headwise.stream import END, whole


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
    text = read_text("files", str(write(tmp_path / "a.txt", content)), None, 0.1)
    assert whole(text.train) + whole(text.val) == content
    assert len(whole(text.train)) == int(1117 * 0.9)


def test_a_folder_and_a_glob_give_their_files_in_name_order(tmp_path):
    write(tmp_path / "b.txt", "second\n")
    write(tmp_path / "a.txt", "first")
    write(tmp_path / "deep/c.txt", "third")
    write(tmp_path / "ignored.py", "no")
    (tmp_path / "folder.txt").mkdir()
    for path in (tmp_path, tmp_path / "**/*.txt"):
        text = read_text("files", str(path), str(tmp_path / "a.txt"), 0.1)
        assert list(text.train.read()) == ["first", END, "second\n", END, "third", END]
        assert text.train.documents == 3


def test_markdown_and_packed_files_are_read_too(tmp_path):
    write(tmp_path / "a.md", "# first")
    write(tmp_path / "b.txt.gz", gzip.compress("zweite ß".encode()))
    text = read_text("files", str(tmp_path), str(tmp_path / "a.md"), 0.1)
    assert [piece for piece in text.train.read() if piece] == ["# first", "zweite ß"]


def test_every_bad_file_is_named_and_can_be_left_out(tmp_path, capsys):
    write(tmp_path / "a.txt", "good")
    write(tmp_path / "b.txt", "")
    write(tmp_path / "c.txt", b"\x7fELF\x00\x01")
    write(tmp_path / "d.txt", "é" * (1 << 20) + "x")
    (tmp_path / "d.txt").open("ab").write(b"\xc3")
    write(tmp_path / "e.txt.gz", b"no gzip")
    with pytest.raises(UserError) as error:
        read_text("files", str(tmp_path), None, 0.5)
    for problem in (
        "b.txt is empty",
        "c.txt holds zero bytes",
        f"d.txt is not UTF-8 at byte {(2 << 20) + 1}",
        "e.txt.gz cannot be unpacked",
        "data.skip_bad=true",
    ):
        assert problem in str(error.value)
    text = read_text("files", str(tmp_path), None, 0.5, skip_bad=True)
    assert whole(text.train) + whole(text.val) == "good"
    assert "left out" in capsys.readouterr().err


def test_a_character_may_lie_across_two_reads(tmp_path, monkeypatch):
    monkeypatch.setattr("headwise.data.text.CHUNK", 3)
    path = write(tmp_path / "a.txt", "aé🦁日本\r\n")
    assert "".join(piece for piece in read_file(path) if piece) == "aé🦁日本\r\n"


def test_line_endings_stay_as_they_are(tmp_path):
    path = write(tmp_path / "a.txt", b"one\r\ntwo\rthree\n" * 5)
    assert "".join(map(whole, read_text("files", str(path), None, 0.5))) == "one\r\ntwo\rthree\n" * 5


def test_a_validation_file_is_used_whole(tmp_path):
    a, b = write(tmp_path / "a.txt", "training"), write(tmp_path / "b.txt", "validation")
    assert tuple(map(whole, read_text("files", str(a), str(b), 0.1))) == ("training", "validation")


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
        read_text("files", str(write(tmp_path / "a.txt", content)), None, 0.1)


def test_missing_files_are_refused_with_the_key_that_named_them(tmp_path):
    with pytest.raises(UserError, match=r"data=files needs data\.path="):
        read_text("files", None, None, 0.1)
    with pytest.raises(UserError, match=r"data\.path=.*nowhere names no file"):
        read_text("files", str(tmp_path / "nowhere"), None, 0.1)
    with pytest.raises(UserError, match=r"data\.path=.* is a folder without text files"):
        read_text("files", str(tmp_path), None, 0.1)
    path = str(write(tmp_path / "a.txt", "text"))
    with pytest.raises(UserError, match=r"data\.val_path=.*x names no file"):
        read_text("files", path, str(tmp_path / "x"), 0.1)
    with pytest.raises(UserError, match=r"names b\.py; what can be read is \.txt \.md, also \.gz"):
        read_text("files", str(write(tmp_path / "b.py", "text")), None, 0.1)
