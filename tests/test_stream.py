"""Streams: the same text whatever pieces it comes in, never all of it at once."""

from hypothesis import given
from hypothesis import strategies as st

from headwise.stream import END, PIECE, part, pieces, source_of, stream_of, survey, whole

LONG = ("x" * 99 + "\n") * 2000 + "y" * (2 * PIECE + 5)
STREAMS = st.lists(st.one_of(st.just(END), st.text(max_size=5)), max_size=12)


def test_pieces_join_to_the_text_and_end_at_lines():
    parts = list(pieces(stream_of(LONG)))
    assert parts.pop() is END
    assert "".join(parts) == LONG
    assert parts[0].endswith("\n")
    assert max(map(len, parts)) <= PIECE


def test_pieces_do_not_depend_on_how_the_text_came():
    expected = list(pieces(stream_of(LONG)))
    for size in (1009, 70_001, 200_003):
        chunks = [LONG[i : i + size] for i in range(0, len(LONG), size)]
        assert list(pieces([*chunks, END])) == expected


@given(stream=STREAMS, cut=st.integers(0, 60))
def test_two_parts_are_the_whole_and_never_overlap(stream, cut):
    source = survey(lambda: iter(stream))
    cut = min(cut, source.characters)
    first, second = part(source, 0, cut), part(source, cut, source.characters)
    assert whole(first) + whole(second) == whole(source)
    assert (len(whole(first)), len(whole(second))) == (first.characters, second.characters)
    ends = [[p for p in half.read() if p is END] for half in (first, second)]
    empty_at_the_start = len([p for p in stream if p is END]) - len(ends[0]) - len(ends[1])
    assert empty_at_the_start >= 0


def test_a_document_that_ends_at_the_cut_ends_before_it():
    source = survey(lambda: iter(["ab", END, "cd", END]))
    assert list(part(source, 0, 2).read()) == ["ab", END]
    assert list(part(source, 2, 4).read()) == ["cd", END]
    assert list(part(source, 0, 3).read()) == ["ab", END, "c"]


def test_a_fingerprint_tells_texts_documents_and_parts_apart():
    texts = [["ab", END], ["a", "b", END], ["a", END, "b", END], ["ac", END]]
    one, same, two, other = (survey(lambda text=text: iter(text)) for text in texts)
    assert one.fingerprint == same.fingerprint == source_of("ab").fingerprint
    assert len({one.fingerprint, two.fingerprint, other.fingerprint, part(one, 0, 1).fingerprint}) == 4
    assert [source.documents for source in (one, two)] == [1, 2]
