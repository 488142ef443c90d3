"""Head metrics on patterns whose score is known beforehand."""

import math

import pytest
import torch

from headwise.inspection.head_scores import (
    PATTERN_METRICS,
    REPEATS_METRICS,
    duplicate_token,
    entropy,
    first_token,
    head_description,
    induction,
    mean_distance,
    mean_distance_without_first,
    pattern_scores,
    previous_token,
    rollout,
    value_weighted,
)
from headwise.inspection.hooks import capture
from tests.small import small_model

T = 11


def one_hot(columns):
    """A pattern whose row i attends to columns[i] alone."""
    return torch.nn.functional.one_hot(torch.tensor(columns), T).float()


PREVIOUS = one_hot([0, *range(T - 1)])
FIRST = one_hot([0] * T)
SELF = one_hot(list(range(T)))
UNIFORM = torch.ones(T, T).tril() / torch.arange(1, T + 1)[:, None]


@pytest.mark.parametrize(
    ("metric", "pattern", "score"),
    [
        (previous_token, PREVIOUS, 1.0),
        (previous_token, SELF, 0.0),
        (previous_token, FIRST, 1 / (T - 1)),  # row 1 alone
        (first_token, FIRST, 1.0),
        (first_token, SELF, 0.0),
        (first_token, PREVIOUS, 1 / (T - 1)),
        (entropy, UNIFORM, 1.0),
        (entropy, PREVIOUS, 0.0),
        (mean_distance, SELF, 0.0),
        (mean_distance, PREVIOUS, (T - 1) / T),  # row 0 attends to itself
        (mean_distance, FIRST, (T - 1) / 2),
        (mean_distance_without_first, FIRST, 0.0),  # nothing is left
        (mean_distance_without_first, PREVIOUS, 1.0),
    ],
)
def test_metric_of_a_pattern_built_for_it_is_exact(metric, pattern, score):
    assert math.isclose(float(metric(pattern)), score, abs_tol=1e-6)


def test_metrics_of_uniform_rows_are_the_means_of_their_weights():
    expected = sum(1 / (i + 1) for i in range(1, T)) / (T - 1)
    assert math.isclose(float(previous_token(UNIFORM)), expected, rel_tol=1e-6)
    assert math.isclose(float(first_token(UNIFORM)), expected, rel_tol=1e-6)


def test_entropy_of_two_rows_by_hand():
    pattern = torch.tensor([[1.0, 0.0, 0.0], [0.25, 0.75, 0.0], [0.5, 0.5, 0.0]])
    h1 = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75)) / math.log(2)
    h2 = math.log(2) / math.log(3)
    assert math.isclose(float(entropy(pattern)), (h1 + h2) / 2, rel_tol=1e-6)


# Tokens 0 1 2 3 4 0 1 2 3 4 0: repeated after five.
REPEATED = torch.arange(T) % 5


def test_induction_of_a_perfect_head_is_one_because_only_eligible_rows_count():
    pattern = one_hot([0] * 5 + [i - 4 for i in range(5, T)])  # the token after the one like this
    assert float(induction(pattern, REPEATED)) == 1.0
    assert float(duplicate_token(pattern, REPEATED)) == 0.0


def test_duplicate_token_of_a_perfect_head_is_one():
    pattern = one_hot([0] * 5 + [i - 5 for i in range(5, T)])
    assert float(duplicate_token(pattern, REPEATED)) == 1.0
    assert float(induction(pattern, REPEATED)) == 0.0


def test_induction_and_duplicate_token_count_every_earlier_occurrence():
    ids = torch.tensor([7, 3, 7, 7])
    pattern = torch.tensor(
        [[1.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0], [0.2, 0.3, 0.5, 0.0], [0.1, 0.2, 0.3, 0.4]], dtype=torch.float64
    )
    # Row 2: 7 came at 0, followed by 1. Row 3: 7 came at 0 and 2, followed by 1 and 3.
    assert math.isclose(float(induction(pattern, ids)), (0.3 + (0.2 + 0.4)) / 2)
    assert math.isclose(float(duplicate_token(pattern, ids)), (0.2 + (0.1 + 0.3)) / 2)


def test_repeats_metrics_of_tokens_that_never_repeat_are_zero():
    assert float(induction(UNIFORM, torch.arange(T))) == float(duplicate_token(UNIFORM, torch.arange(T))) == 0.0


def test_repeats_metrics_match_each_sequence_with_its_own_tokens():
    pattern = torch.rand(2, 3, T, T).tril().softmax(-1)
    ids = torch.stack([REPEATED, torch.arange(T) % 3])
    for metric in (induction, duplicate_token):
        alone = torch.stack([metric(pattern[b], ids[b]) for b in (0, 1)])
        assert torch.allclose(metric(pattern, ids), alone)


def test_value_weighted_is_the_norm_of_the_weighted_value_through_w_o():
    model = small_model(n_kv_head=1)
    with capture(model) as maps:
        model(torch.randint(23, (2, 7)))
    seen = maps[1]
    given = seen.pattern[1, 2, 5, 3] * (seen.v[1, 0, 3] @ seen.w_o[2])
    assert torch.allclose(value_weighted(seen)[1, 2, 5, 3], given.norm(), atol=1e-6)


def test_rollout_is_the_product_of_layers_that_are_half_identity():
    patterns = torch.rand(2, 3, T, T).tril().softmax(-1)
    halves = [(layer.mean(0) + torch.eye(T)) / 2 for layer in patterns]
    assert torch.allclose(rollout(patterns[:1]), halves[0])
    assert torch.allclose(rollout(patterns), halves[1] @ halves[0])
    assert torch.allclose(rollout(patterns).sum(-1), torch.ones(T))


def test_pattern_scores_normalize_rows_that_do_not_sum_to_one():
    """As ReLU's."""
    for strength in (0.1, 3.0):
        scores = pattern_scores((UNIFORM * strength)[None])
        assert {name: float(value) for name, value in scores.items()} == pytest.approx(
            {name: float(value) for name, value in pattern_scores(UNIFORM[None]).items()}
        )
    assert float(pattern_scores(torch.zeros(1, T, T))["entropy"]) == 0.0


@pytest.mark.parametrize("name", [*PATTERN_METRICS, *REPEATS_METRICS])
def test_metrics_permute_with_the_heads_and_change_nothing_in_place(name):
    pattern = torch.rand(2, 5, T, T).tril().softmax(-1)
    before, order = pattern.clone(), torch.tensor([3, 0, 4, 1, 2])
    ids = torch.stack([REPEATED, REPEATED])
    scores = pattern_scores(pattern, ids)[name]
    assert scores.shape == (2, 5)
    assert torch.equal(pattern_scores(pattern[:, order], ids)[name], scores[:, order])
    assert torch.equal(pattern, before)


PLAIN = {
    "entropy": 0.5,
    "mean_distance": 3.25,
    "previous_token": 0.1,
    "own_token": 0.1,
    "first_token": 0.1,
    "duplicate_token": 0.1,
    "induction": 0.1,
}


@pytest.mark.parametrize(
    ("scores", "description"),
    [
        ({"previous_token": 0.94}, "attends to the previous token: 94%"),
        ({"own_token": 0.6}, "attends to the token itself: 60%"),
        ({"first_token": 0.7}, "attends to the first token (an attention sink): 70%"),
        ({"induction": 0.8}, "attends to what followed the same token earlier, where tokens repeat (induction): 80%"),
        (
            {"duplicate_token": 0.5, "ov_copying": 0.9},
            "attends to earlier occurrences of the same token, where tokens repeat: 50%; "
            "makes the tokens it attends to more likely to come next",
        ),
        (
            {"first_token": 0.35, "previous_token": 0.55},
            "attends to the previous token: 55%; to the first token (an attention sink): 35%",
        ),
        ({"entropy": 0.95}, "spreads its attention almost evenly over all visible tokens"),
        ({"own_token": 0.3}, "has no clear target: attends 3.2 tokens back on average, most to the token itself: 30%"),
    ],
)
def test_head_description_names_what_the_head_attends_to_most(scores, description):
    assert head_description(PLAIN | scores) == description


def test_head_description_of_weights_that_are_all_zero():
    assert head_description(dict.fromkeys(PLAIN, 0.0)) == "attends to nothing: all its weights are 0"


def test_head_description_needs_no_repeats_metrics():
    """A short model has no repeated input."""
    known = {name: x for name, x in PLAIN.items() if name not in REPEATS_METRICS}
    assert head_description(known | {"previous_token": 0.7}) == "attends to the previous token: 70%"
