"""TokenFiles text: exact, reused only when nothing changed, never half there."""

import errno
import hashlib
import json
import random
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace

import numpy as np
import pytest

from headwise import tokenizer
from headwise.data import encoding
from headwise.data import token_files as packing
from headwise.data.sources import Text
from headwise.data.token_files import pack
from headwise.errors import RunError, UserError
from headwise.stream import END, part, source_of, survey
from headwise.tokenizer import train_tokenizer

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


@pytest.mark.parametrize(
    "harm", ["truncate", "flip", "manifest", "lacking manifest", "empty manifest", "tokenizer", "remove"]
)
def test_damage_is_noticed_and_mended(tmp_path, capsys, harm):
    folder = pack(TEXT, "char", 0, tmp_path).folder
    expected = (folder / "train-00000.bin").read_bytes()
    if harm == "truncate":
        (folder / "train-00000.bin").write_bytes(expected[:-2])
    elif harm == "flip":
        (folder / "train-00000.bin").write_bytes(expected[:10] + b"\x01" + expected[11:])
    elif harm == "manifest":
        (folder / "manifest.json").write_text("{")
    elif harm == "lacking manifest":
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps({k: v for k, v in manifest.items() if k != "tokens"}))
    elif harm == "empty manifest":
        (folder / "manifest.json").write_text("[]")
    elif harm == "tokenizer":
        (folder / "tokenizer.json").write_text("{}")
    else:
        (folder / "val-00000.bin").unlink()
    pack(TEXT, "char", 0, tmp_path)
    assert packed_anew(capsys)
    assert (folder / "train-00000.bin").read_bytes() == expected
    assert seen(tmp_path) == [folder]


def test_a_file_that_was_touched_or_copied_is_still_the_same(tmp_path, capsys):
    folder = pack(TEXT, "char", 0, tmp_path).folder
    for file in folder.iterdir():
        file.write_bytes(file.read_bytes())
    capsys.readouterr()
    pack(TEXT, "char", 0, tmp_path)
    assert not packed_anew(capsys)


def test_a_failed_packing_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(packing, "write_shard", fail)
    with pytest.raises(OSError, match="disk full"):
        pack(TEXT, "char", 0, tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


@pytest.fixture
def small_shards(monkeypatch):
    """Batches of 53 characters and shards of about 61 tokens."""
    monkeypatch.setattr(tokenizer, "BATCH", 53)
    monkeypatch.setattr(packing, "SHARD", 61)


def several():
    """A text of 13 documents, the last of which the split cuts."""
    documents = [f"document {i}: the lions left{'!' * i}\n" * (1 + i % 5) for i in range(13)]
    source = survey(lambda: iter([piece for text in documents for piece in (text, END)]))
    return Text(part(source, 0, source.characters - 17), part(source, source.characters - 17, source.characters))


@pytest.mark.parametrize("kind", ["char", "byte", "bpe"])
def test_shards_hold_the_tokens_that_one_file_would(tmp_path, small_shards, monkeypatch, kind):
    sharded = pack(several(), kind, 270, tmp_path / "sharded")
    monkeypatch.undo()
    one = pack(several(), kind, 270, tmp_path / "one")
    assert len(list(sharded.folder.glob("train-*.bin"))) > 3
    for split in ("train", "val"):
        assert sharded.tokens(split)[:].tolist() == one.tokens(split)[:].tolist()
    for name in ("documents", "tokens", "characters", "bytes", "vocab_size", "text"):
        assert sharded.manifest[name] == one.manifest[name]
    assert one.manifest["documents"] == {"train": 13, "val": 1}


def test_a_text_that_fills_its_last_shard_to_the_brim_has_no_empty_one(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "SHARD", len(TEXT.train))
    packed = pack(TEXT, "char", 0, tmp_path)
    assert len(packed.tokens("train")) == len(TEXT.train)
    assert isinstance(packed.tokens("train"), np.memmap)
    assert packing.is_whole(packed.folder)


@pytest.mark.parametrize("shards", [1, 2, 5, 8])
def test_an_interrupted_packing_goes_on_with_the_shards_it_had(tmp_path, small_shards, monkeypatch, capsys, shards):
    expected = pack(several(), "bpe", 270, tmp_path / "whole")
    write, written = packing.write_shard, []

    def interrupted(file, *rest):
        if len(written) == shards:
            file.write_bytes(b"half a sh")
            raise KeyboardInterrupt
        write(file, *rest)
        written.append(file.name)

    with monkeypatch.context() as patch:
        patch.setattr(packing, "write_shard", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pack(several(), "bpe", 270, tmp_path / "cut")
    assert seen(tmp_path / "cut") == []
    monkeypatch.setattr(packing, "learn_tokenizer", None)  # which it has already
    monkeypatch.setattr(packing, "write_shard", lambda file, *rest: (written.append(file.name), write(file, *rest)))
    packed = pack(several(), "bpe", 270, tmp_path / "cut")
    assert "going on where it stopped" in capsys.readouterr().err
    assert len(written) == len(set(written)) == len(list(expected.folder.glob("*.bin")))
    for file in expected.folder.glob("*.bin"):
        assert (packed.folder / file.name).read_bytes() == file.read_bytes()
    assert packed.manifest["documents"] == expected.manifest["documents"]


@pytest.mark.parametrize("harm", ["truncate", "flip", "remove", "shards", "empty", "tokenizer"])
def test_damage_to_what_an_interruption_left_is_noticed(tmp_path, small_shards, monkeypatch, harm):
    expected = pack(several(), "bpe", 270, tmp_path / "whole")
    write = packing.write_shard

    def interrupted(file, *rest):
        if file.name == "train-00004.bin":
            raise KeyboardInterrupt
        write(file, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(packing, "write_shard", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pack(several(), "bpe", 270, tmp_path / "cut")
    (left,) = (path for path in (tmp_path / "cut").iterdir() if path.is_dir())
    shard = left / "train-00001.bin"
    content = shard.read_bytes()
    if harm == "truncate":
        shard.write_bytes(content[:-2])
    elif harm == "flip":
        shard.write_bytes(b"\x01\x00" + content[2:])
    elif harm == "remove":
        shard.unlink()
    elif harm == "tokenizer":
        (left / "tokenizer.json").write_text("{")
    else:
        (left / "shards.json").write_text("[{" if harm == "shards" else "")
    packed = pack(several(), "bpe", 270, tmp_path / "cut")
    for file in expected.folder.glob("*.bin"):
        assert (packed.folder / file.name).read_bytes() == file.read_bytes()


def test_a_text_that_changes_while_it_is_packed_is_refused_and_nothing_kept(tmp_path, small_shards):
    checks = []

    def check():
        checks.append(1)
        if len(checks) == 3:
            raise UserError("it has changed")

    text = Text(*(replace(source_of(half), check=check) for half in several()))
    with pytest.raises(UserError, match="it has changed"):
        pack(text, "char", 0, tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_a_full_disk_is_said_of_the_file(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(packing.Shard, "add", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*train-00000.bin'"):
        pack(TEXT, "char", 0, tmp_path)


def test_a_killed_process_is_one_line(monkeypatch, tmp_path):
    def killed(*_):
        raise BrokenProcessPool

    monkeypatch.setattr(encoding, "processes", lambda *_: ThreadPoolExecutor(1))
    monkeypatch.setattr(encoding, "encode_in_process", killed)
    with pytest.raises(RunError, match=r"a process of data.num_proc=2 was killed"):
        pack(TEXT, "char", 0, tmp_path, num_proc=2)


def test_processes_give_the_tokens_that_threads_give(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizer, "BATCH", 101)
    threads, processes = (pack(several(), "bpe", 270, tmp_path / str(n), num_proc=n) for n in (None, 3))
    for split in ("train", "val"):
        assert processes.tokens(split).tolist() == threads.tokens(split).tolist()


@pytest.mark.parametrize("num_proc", [None, 2])
def test_an_unknown_character_is_named_with_its_place_in_the_whole_text(tmp_path, monkeypatch, num_proc):
    monkeypatch.setattr(tokenizer, "BATCH", 101)
    text = Text("the kids\n" * 40 + "ß", "the kids")
    known = train_tokenizer("char", "the kids\n")
    with pytest.raises(UserError, match=r"the text holds characters the tokenizer has no token for: 'ß' at 360"):
        pack(text, "char", 0, tmp_path, known, num_proc)
    assert seen(tmp_path) == []


def test_two_at_once_leave_one_good_copy(tmp_path, capsys):
    threads = [threading.Thread(target=pack, args=(TEXT, "char", 0, tmp_path)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (folder,) = seen(tmp_path)
    assert packing.is_whole(folder)
    assert capsys.readouterr().err.count("packing") == 1


def test_the_manifest_says_what_it_was_made_of(tmp_path):
    folder = pack(TEXT, "char", 0, tmp_path).folder
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["settings"]["tokenizer"] == "char"
    assert manifest["characters"] == {"train": len(TEXT.train), "val": len(TEXT.val)}
    assert manifest["vocab_size"] == len(set(TEXT.train + TEXT.val))
    assert manifest["text"] == {split: source_of(content).fingerprint for split, content in TEXT._asdict().items()}
    for name, about in manifest["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == about["sha256"]
    assert {"headwise", "tokenizers"} <= manifest["versions"].keys()


def seen(folder):
    """What is not hidden in a folder."""
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


KILLED = """
from headwise.data import encoding, token_files as packing
from headwise.data.sources import Text
from headwise.stream import END, survey
import headwise.tokenizer, sys
headwise.tokenizer.BATCH, packing.SHARD = 1009, 50_021
train = survey(lambda: (piece for i in range(3001) for piece in (f"document {i}: " + "the lions left. " * 20, END)))
packing.pack(Text(train, "so they left"), "bpe", 300, sys.argv[1], num_proc=int(sys.argv[2]) or None)
"""


@pytest.mark.slow
@pytest.mark.parametrize("num_proc", [0, 2])
def test_ten_kills_leave_nothing_that_a_later_run_takes_for_whole(tmp_path, num_proc):
    """Killed at ten random moments, the preparation is never found half done, and ends as one that nobody disturbed."""

    def start(folder):
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen([sys.executable, "-c", KILLED, folder, str(num_proc)], **quiet)

    began = time.monotonic()
    assert start(tmp_path / "whole").wait() == 0
    length, rng = time.monotonic() - began, random.Random(7)
    (whole,) = seen(tmp_path / "whole")
    for i in range(10):
        process = start(tmp_path / str(i))
        time.sleep(rng.uniform(0.1, 1) * length)
        process.kill()
        process.wait()
        for folder in seen(tmp_path / str(i)) if (tmp_path / str(i)).exists() else []:
            assert contents(folder) == contents(whole)
        assert start(tmp_path / str(i)).wait() == 0
        (folder,) = seen(tmp_path / str(i))
        assert contents(folder) == contents(whole)


def contents(folder):
    """What must be the same however often it was interrupted."""
    assert packing.is_whole(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    files = {file.name: file.read_bytes() for file in folder.glob("*.bin")}
    return files, [manifest[name] for name in ("text", "tokens", "documents", "bytes")]
