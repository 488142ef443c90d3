"""Head metrics on patterns whose score is known beforehand."""

import math

import pytest
import torch

from headwise.inspection.heads import METRICS, entropy, first_token, head_scores, previous_token

T = 11


def one_hot(columns):
    """A pattern whose row i looks at columns[i] alone."""
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
    ],
)
def test_a_pattern_built_for_a_metric_scores_exactly(metric, pattern, score):
    assert math.isclose(float(metric(pattern)), score, abs_tol=1e-6)


def test_uniform_rows_score_the_means_of_their_weights():
    expected = sum(1 / (i + 1) for i in range(1, T)) / (T - 1)
    assert math.isclose(float(previous_token(UNIFORM)), expected, rel_tol=1e-6)
    assert math.isclose(float(first_token(UNIFORM)), expected, rel_tol=1e-6)


def test_entropy_of_two_rows_by_hand():
    pattern = torch.tensor([[1.0, 0.0, 0.0], [0.25, 0.75, 0.0], [0.5, 0.5, 0.0]])
    h1 = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75)) / math.log(2)
    h2 = math.log(2) / math.log(3)
    assert math.isclose(float(entropy(pattern)), (h1 + h2) / 2, rel_tol=1e-6)


@pytest.mark.parametrize("name", METRICS)
def test_permuting_heads_permutes_scores_and_changes_nothing_in_place(name):
    pattern = torch.rand(2, 5, T, T).tril().softmax(-1)
    before, order = pattern.clone(), torch.tensor([3, 0, 4, 1, 2])
    scores = head_scores(pattern)[name]
    assert scores.shape == (2, 5)
    assert torch.equal(head_scores(pattern[:, order])[name], scores[:, order])
    assert torch.equal(pattern, before)
