"""Preparing a text by itself, and what is told of it."""

import numpy as np
import pytest
from PIL import Image

from headwise.config import DataConfig, TokenizerConfig
from headwise.data.prepare import counts, lengths, plot, prepare, report
from tests.small import script_here


@pytest.fixture
def three(tmp_path):
    """A folder of three documents, and where their tokens go."""
    (tmp_path / "texts").mkdir()
    for name, text in (("a.txt", "abba\n"), ("b.md", "cab"), ("c.txt", "abcabc" * 3)):
        (tmp_path / "texts" / name).write_text(text)
    return DataConfig(
        source="files", path=str(tmp_path / "texts"), val_fraction=0.25, cache_dir=str(tmp_path / "cache")
    )


def test_documents_are_counted_and_measured(three):
    packed = prepare(three, TokenizerConfig())
    assert packed.manifest["documents"] == {"train": 3, "val": 1}  # the cut lies inside the third
    assert packed.manifest["characters"] == {"train": 19, "val": 7}
    assert packed.manifest["tokens"] == {"train": 21, "val": 8}  # and one for each end
    assert lengths(packed).tolist() == [6, 4]
    tokens = packed.tokens("train")
    assert counts(packed).tolist() == np.bincount(tokens, minlength=packed.tokenizer.vocab_size).tolist()
    assert packed.tokenizer.decode(tokens[:10].tolist()) == "abba\n<|endoftext|>cab<|endoftext|>"


def test_the_report_says_what_was_made(three):
    told = report(prepare(three, TokenizerConfig()))
    for line in (
        "documents        3 for training, 1 held out, one of them cut in two",
        "characters       19 for training, 7 held out",
        "vocabulary       5 tokens; 5 stand in the training part",
        "most frequent    b 33.3%  a 33.3%  c 19.0%",
        "    abba",
    ):
        assert line in told, told


def test_a_picture_is_drawn_beside_the_tokens(three):
    packed = prepare(three, TokenizerConfig("byte"))
    assert plot(packed).parent == packed.folder
    assert Image.open(plot(packed)).width == 1000
    assert prepare(three, TokenizerConfig("byte")).folder == packed.folder


def test_the_script_prepares_what_training_finds(tmp_path):
    chosen = ["tokenizer=bpe", "tokenizer.vocab_size=300"]
    told = script_here("prepare_data", *chosen, "plot=true", cwd=tmp_path).stdout
    assert "vocabulary       300 tokens" in told
    assert "picture          data/cache/" in told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]
    quiet = ["logger=none", "callbacks.attention.every_n_steps=null", "trainer.max_steps=1", "run_dir=run"]
    said = script_here("train", *chosen, *quiet, "model.n_layer=1", cwd=tmp_path).stderr
    assert "packing" not in said


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("tokenizr=bpe", "tokenizr is not a key of the configuration; did you mean tokenizer?"),
        ("data=fils", "data=fils is none of files, fineweb_edu, hub, python_docs"),
        ("tokenizer=file", "tokenizer=file needs tokenizer.path=FILE"),
        ("trainer.max_steps=3", "trainer is not a key of the configuration"),
        ("plot=maybe", "plot=maybe must be true or false"),
    ],
)
def test_wrong_choices_are_one_line(tmp_path, wrong, message):
    result = script_here("prepare_data", wrong, cwd=tmp_path, ok=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: {message}")
    assert list(tmp_path.iterdir()) == []
