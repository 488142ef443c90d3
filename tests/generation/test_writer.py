"""The text of tokens as they come: nothing is let out that must be taken back."""

from headwise.generation.writer import Writer, overlap
from headwise.tokenizer import train_tokenizer
from tests.small import TEXT, small_tokenizer


def written(tokenizer, ids, stop):
    """What a writer lets out, token after token, and whether it stopped."""
    writer = Writer(tokenizer, stop)
    parts = [writer.push(i) for i in ids if not writer.stopped]
    return [*parts, writer.finish()], writer.stopped


def test_a_stop_string_ends_the_text_before_it_also_across_tokens():
    tokenizer = small_tokenizer()
    ids = tokenizer.encode("The kids were scared")
    parts, stopped = written(tokenizer, ids, ["were", "kids wa"])
    assert ("".join(parts), stopped) == ("The kids ", True)
    assert parts[4] == ""  # "k" may be the beginning of "kids wa"
    assert "".join(written(tokenizer, ids, ["scared!"])[0]) == "The kids were scared"
    assert "".join(written(tokenizer, tokenizer.encode("so so so sad"), ["so so sad"])[0]) == "so "


def test_overlap_counts_what_a_stop_string_may_begin_with():
    assert [overlap(text, "abab") for text in ("x", "a", "xab", "aba", "abab")] == [0, 1, 2, 3, 2]


def test_characters_of_several_bytes_come_out_whole():
    text = "é🦁 naïve 你好"
    tokenizer = train_tokenizer("bpe", TEXT, 256)
    parts, _ = written(tokenizer, tokenizer.encode(text), ["🐘"])  # whose first bytes are the lion's
    assert "".join(parts) == text
    assert all("\N{REPLACEMENT CHARACTER}" not in part for part in parts)
