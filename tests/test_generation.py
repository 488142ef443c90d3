"""Generation: what is sampled is what was asked for."""

import math

import pytest
import torch

from headwise.errors import UserError
from headwise.generation import generate, keep_top_k, sample
from tests.small import small_model


def test_top_k_keeps_the_largest_and_their_values():
    logits = torch.tensor([0.5, 3.0, -1.0, 2.0, 1.0])
    assert keep_top_k(logits, 2).tolist() == [-math.inf, 3.0, -math.inf, 2.0, -math.inf]
    assert keep_top_k(logits, None) is logits
    assert keep_top_k(logits, 99) is logits


def test_temperature_zero_takes_the_likeliest():
    assert sample(torch.tensor([0.0, 2.0, 1.0]), 0, None, torch.Generator()) == 1


def test_samples_follow_the_filtered_probabilities():
    logits, generator, n = torch.tensor([0.0, 2.0, 1.0, -3.0, 0.7]), torch.Generator().manual_seed(0), 4000
    drawn = torch.tensor([sample(logits, 1.5, 4, generator) for _ in range(n)])
    expected = torch.softmax(keep_top_k(logits / 1.5, 4), 0) * n
    counts = torch.bincount(drawn, minlength=5)
    assert counts[3] == 0
    kept = expected > 0
    chi_square = ((counts - expected)[kept] ** 2 / expected[kept]).sum()
    assert chi_square < 16.27  # 3 degrees of freedom, p = 0.001


def test_greedy_continuation_is_that_of_running_the_whole_model_each_time():
    model, ids = small_model(), [3, 1, 4]
    expected = list(ids)
    for _ in range(40):  # beyond block_size=29
        with torch.no_grad():
            expected.append(int(model(torch.tensor([expected[-29:]]))[0, -1].argmax()))
    assert list(generate(model, ids, 40, temperature=0)) == expected[3:]


def test_the_same_seed_gives_the_same_tokens_and_leaves_the_random_state_alone():
    model = small_model()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = list(generate(model, [1], 30, seed=11))
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(7)
    assert list(generate(model, [1], 30, seed=11)) == first
    assert list(generate(model, [1], 30, seed=12)) != first


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"ids": []}, "the prompt is empty"),
        ({"max_new_tokens": -1}, "max_new_tokens=-1"),
        ({"temperature": -0.5}, "temperature=-0.5"),
        ({"top_k": 0}, "top_k=0"),
    ],
)
def test_wrong_wishes_are_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        list(generate(small_model(), **{"ids": [1], "max_new_tokens": 3} | wrong))
