"""What is remembered of a text between reads."""

import pytest

from headwise.data import text_cache
from headwise.data.text_cache import KeptPieces, cached_scan, file_states
from headwise.tokenizer import Piece


@pytest.mark.parametrize("damage", ["{", "{}", "[]", ""])
def test_a_damaged_cached_scan_is_not_used(tmp_path, monkeypatch, damage):
    monkeypatch.setattr(text_cache, "FRESH", -1)
    (tmp_path / "a.txt").write_text("the kids were scared")
    states, scans = file_states([tmp_path / "a.txt"]), []

    def scan():
        scans.append(1)
        return {"fingerprint": "f", "characters": 20}

    def found():
        return cached_scan(states, ["text"], str(tmp_path / "cache"), scan)

    assert found() == found() == {"fingerprint": "f", "characters": 20}
    assert len(scans) == 1
    (file,) = (tmp_path / "cache/scans").iterdir()
    file.write_text(damage)
    assert found() == found() == {"fingerprint": "f", "characters": 20}
    assert len(scans) == 2


def test_kept_pieces_reads_a_short_text_once_and_a_long_one_every_time(monkeypatch):
    monkeypatch.setattr(text_cache, "MAX_KEPT", 5000)
    kept, reads = KeptPieces(), []
    texts = {"short": [Piece("a" * 1009), Piece("b", True)], "long": [Piece("c" * 997)] * 7}

    def read(name):
        reads.append(name)
        yield from texts[name]

    next(kept.read("short", lambda: read("short")))  # not read to its end
    for _ in range(3):
        for name, pieces in texts.items():
            assert list(kept.read(name, lambda name=name: read(name))) == pieces
    assert reads == ["short", "short", "long", "long", "long"]
