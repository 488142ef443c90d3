"""run_command: exit codes and one-line errors."""

import pytest

from headwise.console import Parser, run_command
from headwise.errors import UserError


def parser():
    made = Parser(prog="headwise generate", description="")
    made.add_argument("--n", type=int, default=0)
    return made


def ending(monkeypatch, main, *arguments):
    monkeypatch.setattr("sys.argv", ["script", *arguments])
    with pytest.raises(SystemExit) as stop:
        run_command(main, parser())
    return stop.value.code


def raising(error):
    def main(flags):
        raise error

    return main


def test_run_command_answers_wrong_input_with_one_line_and_exit_code_2(monkeypatch, capsys):
    assert ending(monkeypatch, raising(UserError("n=0 must be at least 1"))) == 2
    assert capsys.readouterr().err == "error: n=0 must be at least 1\n"
    assert ending(monkeypatch, raising(UserError("never reached")), "--n", "x") == 2
    assert capsys.readouterr().err == "error: argument --n: invalid int value: 'x'; --help lists every flag\n"


def test_run_command_exits_with_130_when_interrupted(monkeypatch):
    assert ending(monkeypatch, raising(KeyboardInterrupt())) == 130


def test_run_command_keeps_the_traceback_of_other_errors(monkeypatch):
    monkeypatch.setattr("sys.argv", ["script"])
    with pytest.raises(ZeroDivisionError):
        run_command(raising(ZeroDivisionError()), parser())
