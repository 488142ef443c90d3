"""Packed text: exact, reused only when nothing changed, never half there."""

import json
import threading

import numpy as np
import pytest

from headwise.data import packing
from headwise.data.packing import pack
from headwise.data.text import Text

TEXT = Text("the kids were scared of the lions\n" * 40, "so they left\n" * 7)


def packed_anew(capsys):
    return "packing" in capsys.readouterr().err


def test_tokens_decode_to_the_text(tmp_path):
    for kind in ("char", "bpe"):
        packed = pack(TEXT, kind, 270, tmp_path)
        for split in ("train", "val"):
            assert packed.tokenizer.decode(packed.tokens(split).tolist()) == getattr(TEXT, split)
            assert packed.manifest["tokens"][split] == len(packed.tokens(split))
        assert packed.tokens("train").dtype == np.uint16


def test_bytes_per_token_count_utf8(tmp_path):
    packed = pack(Text("aé" * 50, "é" * 11), "char", 0, tmp_path)
    assert packed.bytes_per_token("val") == 2.0
    assert packed.bytes_per_token("train") == 1.5


def test_the_same_text_and_settings_are_reused(tmp_path, capsys):
    first = pack(TEXT, "bpe", 270, tmp_path)
    assert packed_anew(capsys)
    assert pack(TEXT, "bpe", 270, tmp_path).folder == first.folder
    assert not packed_anew(capsys)


@pytest.mark.parametrize(
    ("text", "kind", "size"),
    [
        (Text(TEXT.train + "x", TEXT.val), "bpe", 270),
        (Text(TEXT.train, TEXT.val[:-1]), "bpe", 270),
        (Text(TEXT.train + TEXT.val[:5], TEXT.val[5:]), "bpe", 270),
        (TEXT, "bpe", 271),
        (TEXT, "char", 270),
    ],
)
def test_a_changed_text_split_or_tokenizer_is_packed_anew(tmp_path, capsys, text, kind, size):
    first = pack(TEXT, "bpe", 270, tmp_path)
    capsys.readouterr()
    assert pack(text, kind, size, tmp_path).folder != first.folder
    assert packed_anew(capsys)


@pytest.mark.parametrize("harm", ["truncate", "flip", "manifest", "empty manifest", "tokenizer", "remove"])
def test_damage_is_noticed_and_mended(tmp_path, capsys, harm):
    folder = pack(TEXT, "char", 0, tmp_path).folder
    expected = (folder / "train.bin").read_bytes()
    if harm == "truncate":
        (folder / "train.bin").write_bytes(expected[:-2])
    elif harm == "flip":
        (folder / "train.bin").write_bytes(expected[:10] + b"\x01" + expected[11:])
    elif harm == "manifest":
        (folder / "manifest.json").write_text("{")
    elif harm == "empty manifest":
        (folder / "manifest.json").write_text("[]")
    elif harm == "tokenizer":
        (folder / "tokenizer.json").write_text("{}")
    else:
        (folder / "val.bin").unlink()
    pack(TEXT, "char", 0, tmp_path)
    assert packed_anew(capsys)
    assert (folder / "train.bin").read_bytes() == expected
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_a_failed_packing_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(packing, "checksum", fail)
    with pytest.raises(OSError, match="disk full"):
        pack(TEXT, "char", 0, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_two_at_once_leave_one_good_copy(tmp_path):
    threads = [threading.Thread(target=pack, args=(TEXT, "char", 0, tmp_path)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (folder,) = tmp_path.iterdir()
    assert packing.is_whole(folder)


def test_the_manifest_says_what_it_was_made_of(tmp_path):
    folder = pack(TEXT, "char", 0, tmp_path).folder
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["settings"]["tokenizer"] == "char"
    assert manifest["characters"] == {"train": len(TEXT.train), "val": len(TEXT.val)}
    assert manifest["vocab_size"] == len(set(TEXT.train + TEXT.val))
