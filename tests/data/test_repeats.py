"""The induction task: text that nothing but induction can predict."""

from headwise.data.repeats import STRETCH, repeats


def test_every_stretch_repeats_a_segment_without_a_character_twice():
    text = repeats(None)
    stretches = [text[start : start + STRETCH] for start in range(0, len(text), STRETCH)]
    assert {len(stretch) for stretch in stretches} == {STRETCH}
    assert len(set(text)) == 64
    periods = set()
    for stretch in stretches[:300]:
        period = next(p for p in range(1, STRETCH) if stretch[p:] == stretch[:-p])
        assert 8 <= period <= 32
        assert len(set(stretch[:period])) == period
        periods.add(period)
    assert periods == set(range(8, 33))
    assert text == repeats(None)
