"""Preparing a text by itself, and the report of it."""

import numpy as np
import pytest
from PIL import Image

from headwise.commands.prepare import describe, document_lengths, plot, token_counts
from headwise.config import DataConfig, TokenizerConfig
from headwise.data.token_files import prepare
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
    token_files = prepare(three, TokenizerConfig())
    assert token_files.manifest["documents"] == {"train": 3, "val": 1}  # the cut lies inside the third
    assert token_files.manifest["characters"] == {"train": 19, "val": 7}
    assert token_files.manifest["tokens"] == {"train": 21, "val": 8}  # and one for each end
    assert document_lengths(token_files).tolist() == [6, 4]
    tokens, vocab_size = token_files.tokens("train"), token_files.tokenizer.vocab_size
    assert token_counts(token_files).tolist() == np.bincount(tokens, minlength=vocab_size).tolist()
    assert token_files.tokenizer.decode(tokens[:10].tolist()) == "abba\n<|endoftext|>cab<|endoftext|>"


def test_the_report_says_what_was_made(three):
    report = describe(prepare(three, TokenizerConfig()))
    for line in (
        "documents        3 for training, 1 held out, with one that the split divides",
        "characters       19 for training, 7 held out",
        "vocabulary       5 tokens; 5 occur in the training text",
        "most frequent    b 33.3%  a 33.3%  c 19.0%",
        "    abba",
    ):
        assert line in report, report


def test_a_picture_is_drawn_beside_the_tokens(three):
    token_files = prepare(three, TokenizerConfig("byte"))
    assert plot(token_files).parent == token_files.folder
    assert Image.open(plot(token_files)).width == 1000
    assert prepare(three, TokenizerConfig("byte")).folder == token_files.folder


def test_the_script_prepares_what_training_finds(tmp_path):
    chosen = ["tokenizer=bpe", "tokenizer.vocab_size=300"]
    told = script_here("prepare_data", *chosen, "plot=true", cwd=tmp_path).stdout
    assert "vocabulary       300 tokens" in told
    assert "picture          data/cache/" in told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]
    quiet = ["logger=none", "callbacks.attention.every_n_steps=null", "trainer.max_steps=1", "run_dir=run"]
    said = script_here("train", *chosen, *quiet, "model.n_layer=1", cwd=tmp_path).stderr
    assert "tokenizing" not in said


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
