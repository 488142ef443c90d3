"""The n-gram yardstick: by hand on a text of a few characters."""

import importlib.util
import math
from pathlib import Path

import pytest

from tests.small import text_splits

spec = importlib.util.spec_from_file_location("ngram", Path(__file__).parents[2] / "benchmarks/ngram.py")
ngram = importlib.util.module_from_spec(spec)
spec.loader.exec_module(ngram)


def test_witten_bell_by_hand():
    # training "aab": counts a 2, b 1; after "a": a 1, b 1. Validation "xab": a and b are predicted, x is not.
    one, two = ngram.losses(text_splits("aab", "xab"), 2)
    p_a, p_b = (2 + 2 / 3) / 5, (1 + 2 / 3) / 5  # over the uniform 1/3
    assert one == pytest.approx(-(math.log(p_a) + math.log(p_b)) / 2)
    p_b_after_a = (1 + 2 * p_b) / 4
    assert two == pytest.approx(-(math.log(p_a) + math.log(p_b_after_a)) / 2)  # "x" was never seen before


def test_probabilities_sum_to_one():
    train, alphabet = "abracadabra", "abcdr"
    before = ngram.losses(text_splits(train, "ab"), 3)[2]
    after = [ngram.losses(text_splits(train, f"ab{char}"), 3)[2] for char in alphabet]
    total = sum(math.exp(before - 2 * loss) for loss in after)
    assert total == pytest.approx(1.0)
