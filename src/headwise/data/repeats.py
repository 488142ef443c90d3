"""Random segments repeated: what only induction can predict (Olsson et al. 2022). The text is made, always the same."""

from __future__ import annotations

import random
import string

ALPHABET = string.ascii_letters + string.digits + "+-"  # 64 characters
SEGMENT, LINE, LINES = (8, 32), 96, 20_000  # characters in a segment, and in a line; lines


def repeats() -> str:
    """Lines of 96 characters, each a random segment of 8 to 32 over and over. Within its first period nothing can be
    predicted, after that everything, by looking at what followed the same character before. Lines are short, so that a
    window often crosses into another: segments then begin at all places in it, and heads must work at all of them."""
    draw = random.Random(0)
    lines = []
    for _ in range(LINES):
        length = draw.randint(*SEGMENT)
        segment = "".join(draw.sample(ALPHABET, length))  # no character twice, so that what follows is certain
        lines.append((segment * (LINE // length + 1))[:LINE])
    return "\n".join(lines)
