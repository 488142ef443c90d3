"""What the commands have in common: flags, messages on standard error, exit codes.

Wrong input is one line and exit code 2; an interruption is exit code 130; a closed pipe is no error.
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
    """The flags of one command. An error is one line."""

    def error(self, message: str) -> NoReturn:
        fail(f"{message}; --help lists every flag")

    def add_checkpoint(self) -> None:
        """Add --checkpoint, for headwise.checkpoint.load."""
        where = "a run's folder, a .ckpt file, a Hugging Face folder or Hub name; default: the newest run's best"
        self.add_argument("--checkpoint", metavar="PATH", help=where)

    def add_precision(self) -> None:
        """Add --precision, for headwise.generation.fast."""
        choices = "float32, or bfloat16: half the memory, faster for a large model, less exact; default: %(default)s"
        self.add_argument("--precision", default="float32", metavar="NAME", help=choices)


def say(line: str) -> None:
    """Print a message on standard error, in the first process of a run only."""
    if rank() == 0:
        print(f"headwise: {line}", file=sys.stderr, flush=True)


class Progress:
    """Print every two seconds how much is done, how fast, and how long the rest will take."""

    def __init__(self, doing: str, unit: str, total: int | None = None):
        self.doing, self.unit, self.total = doing, unit, total
        self.done, self.began, self.printed = 0, time.monotonic(), time.monotonic()

    def __call__(self, amount: int) -> None:
        """Add to what is done."""
        self.done += amount
        now = time.monotonic()
        if now - self.printed < 2:
            return
        self.printed, rate = now, self.done / (now - self.began)
        far, left = f"{self.done:,} {self.unit} {self.doing}", ""
        if self.total:
            far = f"{min(1, self.done / self.total):.0%} {self.doing}"
            left = f", {max(0, self.total - self.done) / max(rate, 1):.0f} s left"
        say(f"{far}, {rate:,.0f} {self.unit} a second{left}")


def fail(message: str, code: int = 2) -> NoReturn:
    """Print what is wrong in one line, and exit; code 2 means wrong input."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


def run_command(
    command: Callable[[argparse.Namespace], None], parser: Parser, arguments: list[str] | None = None
) -> None:
    """Run `command` with the flags in the arguments, by default those of the command line."""
    prepare_streams()
    flags = parser.parse_args(arguments)
    try:
        command(flags)
        sys.stdout.flush()
    except UserError as error:
        fail(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if not error.filename:
            fail(error.strerror or str(error), 1)  # for example a full disk behind standard output
        fail(f"{error.filename}: {error.strerror}")


def prepare_streams() -> None:
    """Open the null device for streams that are closed, and let no character raise: one that an output stream cannot
    encode becomes a question mark, and input that is not text is left for the tokenizer to refuse."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  as long as the program runs
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape" if name == "stdin" else "replace")
