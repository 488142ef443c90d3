"""Files appear whole or not at all; tables can be cut back."""

from pathlib import Path

import pytest

from headwise.errors import UserError
from headwise.files import CsvTable, atomic_write, relative_to_cwd, write_text


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    write_text(path, "old")

    def interrupted():
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_a_table_is_cut_back_to_a_step_and_grows_again(tmp_path):
    table = CsvTable(tmp_path / "t.csv", ["step", "loss"])
    table.keep_until(0)
    table.append([{"step": 1, "loss": 0.5}, {"step": 2}, {"step": 3, "loss": 0.25}])
    table.keep_until(2)
    table.append([{"step": 3, "loss": 0.125}])
    assert table.rows() == [
        {"step": "1", "loss": "0.5"},
        {"step": "2", "loss": ""},
        {"step": "3", "loss": "0.125"},
    ]


def test_a_row_cut_short_is_left_out_and_other_damage_is_named_with_its_line(tmp_path):
    table = CsvTable(tmp_path / "t.csv", ["step", "loss"])
    table.keep_until(0)
    table.append([{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}])
    table.path.write_bytes(table.path.read_bytes()[:-3])
    assert [row["step"] for row in table.rows()] == ["1"]
    table.keep_until(5)
    for damage in (b"2,0.5,7\r\n", b"\0\0\0,1\r\n", b"2\r\n"):
        before = table.path.read_bytes()
        table.path.write_bytes(before + damage)
        with pytest.raises(UserError, match=r"t\.csv is damaged in line 3"):
            table.keep_until(5)
        assert table.path.read_bytes() == before + damage
        table.path.write_bytes(before)


def test_a_file_that_cannot_be_written_is_named_as_the_user_named_it(tmp_path):
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "folder", Path("/proc/nothing.txt")):
        with pytest.raises(OSError) as raised:  # noqa: PT011
            write_text(path, "x")
        assert str(path) in (raised.value.filename, raised.value.filename2)
    assert not list(tmp_path.glob(".*"))


def test_relative_to_cwd_shortens_a_path_below_the_current_folder_and_no_other(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert relative_to_cwd(tmp_path / "here" / "runs" / "a") == Path("runs/a")
    assert relative_to_cwd(tmp_path / "there") == tmp_path / "there"
    assert relative_to_cwd(Path("runs/a")) == Path("runs/a")
