"""Evaluation: the mean over every token, each predicted once."""

import numpy as np
import pytest
import torch

from headwise.data.datamodule import ValBatches
from headwise.evaluation import mean_loss
from headwise.model.gpt import next_token_loss
from tests.small import small_model


def test_the_mean_is_over_tokens_and_the_same_on_any_number_of_devices():
    model, tokens = small_model(), np.random.default_rng(0).integers(0, 23, 1009).astype(np.uint16)
    chunks = [torch.from_numpy(tokens[i : i + 30].astype(np.int64)) for i in range(0, 1008, 29)]
    with torch.no_grad():
        sums = [float(next_token_loss(model(c[None, :-1]), c[None, 1:], reduction="sum")) for c in chunks]
    batches = ValBatches(tokens, 29, 23)
    assert mean_loss(model, batches) == pytest.approx(sum(sums) / 1008, rel=1e-5)
    batches.rows, batches.devices, seen = 5, 3, []
    for batches.rank in range(3):
        seen.extend(int((targets >= 0).sum()) for _, targets in batches)
    assert sum(seen) == 1008
    assert len(seen) == 3 * len(batches)  # every device as many batches, an empty one where none is left
