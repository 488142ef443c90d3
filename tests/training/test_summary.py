"""The summary: which rows of metrics.csv it takes, and how it is printed."""

import csv
import subprocess

import pytest

from headwise.training.metrics import METRICS_COLUMNS
from headwise.training.summary import git_commit, summarize, summary_text, versions
from tests.small import ROOT


@pytest.fixture
def folder(tmp_path):
    """A run's folder with a best validation in the middle, two samples and the maps of two steps."""
    rows = [
        {"step": 2, "tokens": 20, "seconds": 1.0, "train_loss": 3.0},
        {"step": 4, "tokens": 40, "seconds": 2.0, "train_loss": 2.5, "val_loss": 2.25, "val_bits_per_byte": 1.5},
        {"step": 6, "tokens": 60, "seconds": 4.0, "train_loss": 2.0, "val_loss": 2.75, "val_bits_per_byte": 1.75},
    ]
    with (tmp_path / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, METRICS_COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(rows)
    (tmp_path / "samples.txt").write_text("==== step 4\nfour\n\n==== step 6\nsix\nlines\n\n")
    (tmp_path / "attention").mkdir()
    for step in (4, 6):
        (tmp_path / f"attention/maps_text_step_{step:06d}.png").touch()
    return tmp_path


def test_summarize_takes_the_best_validation_and_the_last_step(folder):
    summary = summarize(folder, ["seed=1"], 1234, None, 7.891)
    assert (summary["val_loss"], summary["val_bits_per_byte"], summary["best_step"]) == (2.25, 1.5, 4)
    assert (summary["last_val_loss"], summary["steps"], summary["train_tokens"]) == (2.75, 6, 60)
    assert (summary["train_seconds"], summary["tokens_per_second"], summary["wall_seconds"]) == (4.0, 15.0, 7.89)
    assert (summary["parameters"], summary["sample"]) == (1234, "six\nlines")
    assert summary["attention"] == [str(folder / "attention/maps_text_step_000006.png")]
    assert (folder / "loss.png").is_file()


def test_summary_text_has_a_line_for_each_result(folder):
    text = summary_text(summarize(folder, ["seed=1"], 1234, "https://wandb.ai/x", 7.891))
    assert text.splitlines()[0] == "overrides        seed=1"
    assert "validation loss  2.2500 nats per token, 1.5000 bits per byte" in text
    assert "best of the run: step 4 of 6" in text
    assert "sample\n    six\n    lines\n" in text
    assert "W&B              https://wandb.ai/x" in text


def test_versions_and_git_commit_name_the_code():
    assert {"python", "headwise", "torch", "lightning", "tokenizers", "numpy"} == set(versions())
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert git_commit() == (head.stdout.strip() or None)
