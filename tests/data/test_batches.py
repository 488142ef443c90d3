"""Batches: targets are the next tokens; validation predicts every token once."""

import numpy as np
import pytest
import torch

from headwise.data.batches import TrainBatches, ValBatches
from headwise.model.gpt import IGNORE

TOKENS = np.arange(1009, dtype=np.uint16)


def batches(first, last, batch=6, accumulate=1):
    source = TrainBatches(TOKENS, 17, batch, accumulate, seed=3)
    source.first_step, source.last_step = first, last
    return list(source)


def test_targets_are_the_inputs_one_token_later():
    for inputs, targets in batches(0, 5):
        assert inputs.shape == targets.shape == (6, 17)
        assert torch.equal(targets, inputs + 1)


def test_a_run_that_starts_later_sees_the_same_batches():
    for (a, _), (b, _) in zip(batches(0, 9)[4:], batches(4, 9), strict=True):
        assert torch.equal(a, b)


def test_accumulated_micro_batches_are_the_whole_batch_in_parts():
    parts = [inputs for inputs, _ in batches(0, 2, batch=2, accumulate=3)]
    whole = [inputs for inputs, _ in batches(0, 2)]
    assert torch.equal(torch.cat(parts), torch.cat(whole))


@pytest.mark.parametrize("n", [2, 17, 18, 19, 1009])
def test_validation_predicts_every_token_but_the_first_exactly_once(n):
    source = ValBatches(TOKENS[:n], 17, 1009)
    source.rows = 5
    source = list(source)
    counted = torch.cat([targets[targets != IGNORE] for _, targets in source])
    assert counted.tolist() == list(range(1, n))
    for inputs, targets in source:
        real = targets != IGNORE
        assert torch.equal(inputs[real] + 1, targets[real])
