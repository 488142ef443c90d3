"""The induction task: lines that nothing but induction can predict."""

from headwise.data.repeats import LINE, repeats


def test_every_line_repeats_a_segment_without_a_character_twice():
    text = repeats()
    lines = text.split("\n")
    assert {len(line) for line in lines} == {LINE}
    assert len(set(text)) == 65
    periods = set()
    for line in lines[:300]:
        period = next(p for p in range(1, LINE) if line[p:] == line[:-p])
        assert 8 <= period <= 32
        assert len(set(line[:period])) == period
        periods.add(period)
    assert periods == set(range(8, 33))
    assert text == repeats()
