"""Words for what a head does, from its scores."""

import pytest

from headwise.inspection.words import in_words

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
    ("scores", "words"),
    [
        ({"previous_token": 0.94}, "looks at the previous token 94% of the time"),
        ({"own_token": 0.6}, "looks at the token itself 60% of the time"),
        ({"first_token": 0.7}, "looks at the first token 70% of the time, as heads do that find nothing to take"),
        (
            {"induction": 0.8},
            "looks at what came after the same token earlier 80% of the time where tokens repeat: induction",
        ),
        (
            {"duplicate_token": 0.5, "ov_copying": 0.9},
            "looks at the same token earlier 50% of the time where tokens repeat; makes what it reads likelier to come",
        ),
        (
            {"first_token": 0.35, "previous_token": 0.55},
            "looks at the previous token 55% of the time; looks at the first",
        ),
        ({"entropy": 0.95}, "spreads its attention almost evenly over all it may see"),
        ({"own_token": 0.3}, "not clear: looks 3.2 tokens back on average, 30% of the time at the token itself"),
    ],
)
def test_a_head_is_described_by_what_it_does_most(scores, words):
    assert in_words(PLAIN | scores).startswith(words)


def test_a_head_that_weighs_nothing_is_said_to():
    assert in_words(dict.fromkeys(PLAIN, 0.0)) == "looks at nothing: all its weights are 0"


def test_short_models_have_no_repeats_to_be_judged_by():
    known = {name: x for name, x in PLAIN.items() if name not in ("duplicate_token", "induction")}
    assert in_words(known | {"previous_token": 0.7}) == "looks at the previous token 70% of the time"
