"""The built-in texts: Python's documentation, and lines that nothing but induction can predict."""

import sys

from headwise.data.builtin_texts import LINE, library_sources, python_docs, repeats


def test_python_docs_is_a_long_text_with_few_distinct_characters():
    text = python_docs()
    assert len(text) > 300_000
    assert 60 < len(set(text)) < 300


def test_python_docs_is_the_library_sources_in_a_python_without_help_topics(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data", None)
    monkeypatch.delitem(sys.modules, "pydoc_data.topics", raising=False)
    assert python_docs() == library_sources()
    assert 300_000 < len(library_sources()) < 900_000


def test_every_line_of_repeats_repeats_a_segment_without_a_character_twice():
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
