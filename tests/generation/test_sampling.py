"""Sampling: the filters of transformers, and samples that follow the filtered probabilities."""

from itertools import islice

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from headwise.generation.sampling import Sampling, apply_filters, sample_tokens, uniform_numbers

SAMPLINGS = [
    Sampling(temperature=0.7),
    Sampling(top_k=5),
    Sampling(top_p=0.6),
    Sampling(min_p=0.2),
    Sampling(repetition_penalty=1.7),
    Sampling(1.3, 1.9, 11, 0.8, 0.05),
]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_filters_equal_those_of_transformers(sampling):
    torch.manual_seed(0)
    logits, ids = torch.randn(7, 53) * 3, torch.randint(53, (7, 13))
    theirs = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)])
    theirs.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        theirs.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p:
        theirs.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        theirs.append(MinPLogitsWarper(sampling.min_p))
    present = torch.zeros(7, 53, dtype=torch.bool).scatter(1, ids, True)
    ours = apply_filters(logits, sampling, present).softmax(-1)
    assert torch.allclose(ours, theirs(ids, logits).softmax(-1), atol=1e-6)


def test_sample_at_a_tiny_temperature_takes_the_most_likely_and_gives_no_nan():
    logits = torch.tensor([[0.0, 90.0, 89.0], [3.0, -1e30, 2.0]])
    assert sample_tokens(logits, Sampling(temperature=1e-30), torch.tensor([0.3, 0.9])).tolist() == [1, 0]


@pytest.mark.parametrize("sampling", [*SAMPLINGS[:4], SAMPLINGS[-1]], ids=str)
def test_samples_follow_the_filtered_probabilities(sampling):
    torch.manual_seed(2)
    logits, n = torch.randn(1, 13) * 2, 4000
    drawn = sample_tokens(logits.expand(n, -1), sampling, torch.cat(list(islice(uniform_numbers([5]), n))))
    expected = apply_filters(logits, sampling).softmax(-1)[0] * n
    counts = torch.bincount(drawn, minlength=13)
    kept = expected > 0
    assert counts[~kept].sum() == 0
    common = expected >= 5
    rest = (counts[~common].sum() - expected[~common].sum()) ** 2 / expected[~common].sum().clamp(min=5)
    chi_square = ((counts - expected)[common] ** 2 / expected[common]).sum() + rest
    assert chi_square < {1: 10.8, 2: 13.8, 3: 16.3, 4: 18.5}.get(int(common.sum()), 34.5)  # p = 0.001, up to 13 kinds
