"""The schema: numbers out of their range are refused with their key."""

import pytest

from headwise.config import TrainConfig
from headwise.errors import UserError


@pytest.mark.parametrize(
    ("group", "key", "value", "message"),
    [
        ("optimizer", "lr", 0.0, "optimizer.lr=0.0 must be above 0"),
        ("optimizer", "beta2", 1.0, "optimizer.beta2=1.0 must be at least 0 and below 1"),
        ("trainer", "max_steps", 0, "trainer.max_steps=0 must be at least 1"),
        ("data", "batch_size", 0, "data.batch_size=0 must be at least 1"),
        ("data", "global_batch_size", 33, "data.global_batch_size=33 is not divisible by data.batch_size=32"),
        ("schedule", "min_lr_ratio", 1.5, "schedule.min_lr_ratio=1.5 must lie between 0 and 1"),
        ("tokenizer", "vocab_size", 255, "tokenizer.vocab_size=255 must be at least 256"),
    ],
)
def test_a_number_out_of_range_is_refused_with_its_key(group, key, value, message):
    config = TrainConfig()
    setattr(getattr(config, group), key, value)
    with pytest.raises(UserError, match=message):
        config.validate()


def test_the_defaults_are_valid():
    TrainConfig().validate()
