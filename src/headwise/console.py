"""Parse flags, print messages on standard error, and end commands with the right exit code.

Wrong input gives one line and exit code 2; an interruption gives exit code 130; a closed pipe is not an error.
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
    """ArgumentParser of a command, whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        fail(f"{message}; --help lists every flag")

    def add_checkpoint(self) -> None:
        """Add --checkpoint, for headwise.checkpoint.load."""
        kinds = "a run's folder, a .ckpt file, a Hugging Face folder or Hub name; default: the newest run under runs/"
        self.add_argument("--checkpoint", metavar="PATH", help=kinds)
        plugins = "files or modules that register the parts of the model that are not Headwise's own"
        self.add_argument("--plugin", nargs="+", default=[], metavar="FILE", help=plugins)

    def add_precision(self) -> None:
        """Add --precision, for headwise.generation.fast."""
        kinds = "float32, or bfloat16: half the memory, faster for a large model, less exact; default: %(default)s"
        self.add_argument("--precision", default="float32", metavar="NAME", help=kinds)


def say(line: str) -> None:
    """Print a message on standard error, in the first process of a run only."""
    if rank() == 0:
        print(f"headwise: {line}", file=sys.stderr, flush=True)


class Progress:
    """Print progress every two seconds: the amount done, the rate, and the time left if the total is known."""

    def __init__(self, action: str, unit: str, total: int | None = None):
        self.action, self.unit, self.total = action, unit, total
        self.done, self.start_time, self.print_time = 0, time.monotonic(), time.monotonic()

    def __call__(self, amount: int) -> None:
        """Add to the amount done, and print the progress if two seconds have passed."""
        self.done += amount
        now = time.monotonic()
        if now - self.print_time < 2:
            return
        self.print_time, rate = now, self.done / (now - self.start_time)
        if self.total:
            left = max(0, self.total - self.done) / max(rate, 1)
            share = min(1, self.done / self.total)
            say(f"{share:.0%} {self.action}, {rate:,.0f} {self.unit} a second, {left:.0f} s left")
        else:
            say(f"{self.done:,} {self.unit} {self.action}, {rate:,.0f} {self.unit} a second")


def fail(message: str, code: int = 2) -> NoReturn:
    """Print an error in one line and exit; code 2 means wrong input."""
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
    """Open the null device in place of closed streams, and configure the others so that no character raises an error:
    output streams replace what they cannot encode by a question mark, and bytes of the input that are not UTF-8 become
    lone surrogates, which the tokenizer refuses."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  as long as the program runs
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape" if name == "stdin" else "replace")
