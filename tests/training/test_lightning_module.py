"""The LightningModule: averages over tokens, dropout that nothing between steps can disturb, gradients clipped."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from headwise.config import OptimizerConfig, ScheduleConfig
from headwise.data.sampler import ValBatches
from headwise.model.gpt import next_token_loss
from headwise.training.lightning_module import TrainingModule
from tests.small import small_model, small_tokenizer


def module(**sizes):
    packed = SimpleNamespace(tokenizer=small_tokenizer(), bytes_per_token=lambda split: 1.5)
    made = TrainingModule(small_model(**sizes), packed, OptimizerConfig(), ScheduleConfig(), seed=3, about={})
    made._trainer = SimpleNamespace(world_size=1)
    made.train()
    return made


def test_validation_is_the_mean_over_tokens_however_they_are_batched():
    tokens = np.random.default_rng(0).integers(0, 23, 1009).astype(np.uint16)
    expected = None
    for rows in (1, 5, 97):
        source = ValBatches(tokens, 29, 23)
        source.rows = rows
        made = module().eval()
        made.on_validation_epoch_start()
        with torch.no_grad():
            for i, batch in enumerate(source):
                made.validation_step(batch, i)
        made.on_validation_epoch_end()
        if expected is None:  # window by window, averaged by hand
            chunks = [torch.from_numpy(tokens[i : i + 30].astype(np.int64)) for i in range(0, 1008, 29)]
            with torch.no_grad():
                sums = [next_token_loss(made.model(c[None, :-1]), c[None, 1:], reduction="sum") for c in chunks]
            expected = float(sum(sums)) / 1008
        assert made.val_loss == pytest.approx(expected, rel=1e-5)
        assert made.val_bits_per_byte == pytest.approx(expected / math.log(2) / 1.5, rel=1e-5)


def test_dropout_depends_on_seed_step_and_micro_step_alone():
    made, batch = module(dropout=0.5), (torch.randint(23, (2, 7)), torch.randint(23, (2, 7)))

    def loss(batch_idx, step):
        torch.rand(11)  # what runs between steps
        made._trainer = SimpleNamespace(global_step=step, global_rank=0, accumulate_grad_batches=2)
        return made.training_step(batch, batch_idx)

    first = loss(batch_idx=4, step=2)
    assert torch.equal(loss(0, 2), first)  # however the batches were counted before
    assert not torch.equal(loss(5, 2), first)
    assert not torch.equal(loss(4, 3), first)


def test_the_gradient_is_clipped_and_its_norm_before_that_is_kept():
    made = module()
    next_token_loss(made.model(torch.randint(23, (2, 7))), torch.randint(23, (2, 7))).backward()
    before = math.sqrt(sum(float(p.grad.square().sum()) for p in made.parameters()))
    made.configure_gradient_clipping(torch.optim.SGD(made.parameters(), lr=0.1), before / 2)
    after = math.sqrt(sum(float(p.grad.square().sum()) for p in made.parameters()))
    assert float(made.grad_norm) == pytest.approx(before, rel=1e-5)
    assert after == pytest.approx(before / 2, rel=1e-4)
