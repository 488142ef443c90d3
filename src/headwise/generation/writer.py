"""The text of one sample as its tokens come: whole characters only, and none that a stop string may yet begin with.

writer = Writer(tokenizer, stop=["\\n\\n"])
text = writer.push(token)          # what is certain by now, perhaps nothing
text = writer.finish()             # the rest, if nothing stopped it
"""

from __future__ import annotations

from headwise.tokenizer import TextStream, Tokenizer


class Writer:
    """See above; `stopped` once a stop string or the end of the text came."""

    def __init__(self, tokenizer: Tokenizer, stop: list[str]):
        self.stop, self.end_of_text = stop, tokenizer.end_of_text
        self.stream = TextStream(tokenizer)
        self.held = ""  # may be the beginning of a stop string
        self.stopped = False

    def push(self, token: int) -> str:
        """What the token adds."""
        if token == self.end_of_text:
            return self.end()
        self.held += self.stream.push(token)
        return self.release()

    def finish(self) -> str:
        """What is left when no more tokens come."""
        return "" if self.stopped else self.end()

    def end(self) -> str:
        """The rest, up to a stop string in it."""
        self.held += self.stream.finish()
        text = self.release() + self.held
        self.held, self.stopped = "", True
        return text

    def release(self) -> str:
        """Take what is certain from what is held: up to the first stop string, or all but the beginning of one."""
        found = [at for at in (self.held.find(stop) for stop in self.stop) if at >= 0]
        if found:
            text, self.held, self.stopped = self.held[: min(found)], "", True
            return text
        begun = max((overlap(self.held, stop) for stop in self.stop), default=0)
        cut = len(self.held) - begun
        text, self.held = self.held[:cut], self.held[cut:]
        return text


def overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` are the beginning of `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
