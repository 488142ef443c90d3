"""How a script speaks and ends.

Remarks go to standard error. Wrong input is one line and exit code 2, an interruption 130, a closed pipe is no error.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import time
from collections.abc import Callable
from typing import NoReturn

from headwise.distributed.processes import rank
from headwise.errors import UserError


class Parser(argparse.ArgumentParser):
    """An argument parser that says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        fail(f"{message}; --help lists every flag")

    def add_checkpoint(self) -> None:
        """--checkpoint, as every script has it that reads a model (headwise.checkpoint.load)."""
        where = "a run's folder, a .ckpt file, a Hugging Face folder or Hub name; default: the newest run's best"
        self.add_argument("--checkpoint", metavar="PATH", help=where)

    def add_precision(self) -> None:
        """--precision, as the scripts have it that run a model and do not train it (headwise.generation.fast)."""
        what = (
            "float32, or bfloat16: weights of half the size, quicker in a large model, less exact; default: %(default)s"
        )
        self.add_argument("--precision", default="float32", metavar="NAME", help=what)


def say(line: str) -> None:
    """Something a person may want to know, on standard error. Of the processes of one run the first alone speaks."""
    if rank() == 0:
        print(f"headwise: {line}", file=sys.stderr, flush=True)


class Progress:
    """Tells every two seconds how much is done, how fast, and how long the rest will take."""

    def __init__(self, doing: str, unit: str, total: int | None = None):
        self.doing, self.unit, self.total = doing, unit, total
        self.done, self.began, self.told = 0, time.monotonic(), time.monotonic()

    def __call__(self, amount: int) -> None:
        """So much more is done."""
        self.done += amount
        now = time.monotonic()
        if now - self.told < 2:
            return
        self.told, rate = now, self.done / (now - self.began)
        far, left = f"{self.done:,} {self.unit} {self.doing}", ""
        if self.total:
            far = f"{min(1, self.done / self.total):.0%} {self.doing}"
            left = f", {max(0, self.total - self.done) / max(rate, 1):.0f} s left"
        say(f"{far}, {rate:,.0f} {self.unit} a second{left}")


def fail(message: str, code: int = 2) -> NoReturn:
    """Say what is wrong, in one line, and leave; exit code 2 means wrong input."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


def run(main: Callable[[argparse.Namespace], None], parser: Parser) -> None:
    """Run `main` with the flags of the command line."""
    prepare_streams()
    flags = parser.parse_args()
    try:
        main(flags)
        sys.stdout.flush()
    except UserError as error:
        fail(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # whoever read our output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # a place that cannot be read or written
        if not error.filename:
            fail(error.strerror or str(error), 1)  # a full disk behind standard output, say
        fail(f"{error.filename}: {error.strerror}")


def prepare_streams() -> None:
    """A stream that is closed is nowhere; what the terminal's encoding cannot show becomes a question mark; and bytes
    that it cannot read are left for the tokenizer to refuse."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  for as long as the program runs
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape" if name == "stdin" else "replace")
