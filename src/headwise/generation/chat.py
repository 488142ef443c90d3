"""A session in the terminal: what is typed and what the model makes of it are one growing text.

session = Session(model, tokenizer, sampling, seed=0, max_new_tokens=300, stop=[])
session.reply("ROMEO:", print)       # the model goes on from there
session.reply("JULIET:", print)      # and from all of that, on a new line
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain

import torch

from headwise.console import say
from headwise.errors import UserError, require
from headwise.generation.generate import Context, Sample, check, decode, write
from headwise.generation.sampling import Sampling
from headwise.model.gpt import GPT
from headwise.tokenizer import Tokenizer


class Session:
    """The text so far, and how it goes on."""

    def __init__(
        self, model: GPT, tokenizer: Tokenizer, sampling: Sampling, seed: int, max_new_tokens: int, stop: list[str]
    ):
        check(max_new_tokens, sampling, [seed], stop)
        self.tokenizer, self.sampling, self.stop = tokenizer, sampling, stop
        self.seed, self.max_new_tokens = seed, max_new_tokens
        self.context = Context(model, [[]], room=model.config.block_size)  # keeps what it has read between replies
        self.newline = [] if tokenizer.unknown("\n") else tokenizer.encode("\n")

    def reply(self, line: str, heard: Callable[[str], None]) -> Sample:
        """Add a line to the text and let the model go on; heard(text) is told what it writes as it comes. The n-th
        reply draws by seed + n. An interruption ends the reply. What was heard of it stays in the text."""
        ids, before = self.tokenizer.encode(line, "the line"), self.context.texts[0]
        if before and ids and not self.tokenizer.decode(before[-8:]).endswith("\n"):
            ids = self.newline + ids
        require(bool(before or ids), "there is no text to continue yet; type some")
        if ids:
            self.context.add(torch.tensor([ids], device=self.context.device))
        before = list(self.context.texts[0])
        sample = Sample(line, self.seed)
        self.seed += 1
        steps = decode(self.context, self.max_new_tokens, self.sampling, [sample.seed])
        with suppress(KeyboardInterrupt):
            write([sample], steps, self.tokenizer, self.stop, lambda _, text: heard(text))
        if self.context.texts[0] != before + sample.tokens or self.tokenizer.decode(sample.tokens) != sample.text:
            self.context.texts[0] = before + self.tokenizer.encode(sample.text)  # no stop string, no half character
            self.context.forget()
        return sample


def talk(session: Session, first: list[str], replace_unknown: bool) -> None:
    """Reply to the `first` lines and then to every line of standard input until it ends. Standard output gets the
    text, lines and replies."""
    if sys.stdin.isatty():
        import readline  # noqa: F401  lines can be edited and called back

        say("type a text to continue; Enter alone goes on; Ctrl-C ends a reply; Ctrl-D leaves")
    tokens, seconds = 0, 0.0
    for line in chain(first, lines()):
        line = session.tokenizer.replace_unknown(line) if replace_unknown else line
        began = time.perf_counter()
        try:
            session.tokenizer.check(line, "the line")
            show(line)
            sample = session.reply(line, show)
        except UserError as error:
            say(str(error))
            continue
        seconds, tokens = seconds + time.perf_counter() - began, tokens + len(sample.tokens)
        show("" if (line + sample.text).endswith("\n") else "\n")
    if tokens:
        say(f"{tokens} tokens in {seconds:.2f} s, {tokens / seconds:,.0f} a second")


def lines() -> Iterator[str]:
    """The lines of standard input, at a terminal asked for with a mark; there, Ctrl-C drops a line half typed."""
    mark = "> " if sys.stdin.isatty() and sys.stdout.isatty() else ""
    while True:
        try:
            yield input(mark)
        except EOFError:
            break
        except KeyboardInterrupt:
            if not mark:
                raise
            show("\n")


def show(text: str) -> None:
    """Text on standard output, at once."""
    print(text, end="", flush=True)
