"""The schema: numbers out of their range are refused with their key."""

import pytest

from headwise.config import TrainConfig
from headwise.errors import UserError


@pytest.mark.parametrize(
    ("group", "key", "value", "message"),
    [
        ("optimizer", "lr", 0.0, "optimizer.lr=0.0 must be above 0"),
        ("optimizer", "lr", float("inf"), "optimizer.lr=inf must be above 0, and a number"),
        ("data", "path", "my.txt", "data.path=my.txt is for data=files, and the text is that of python_docs"),
        ("optimizer", "beta2", 1.0, "optimizer.beta2=1.0 must be at least 0 and below 1"),
        ("trainer", "max_steps", 0, "trainer.max_steps=0 must be at least 1"),
        ("data", "batch_size", 0, "data.batch_size=0 must be at least 1"),
        ("schedule", "min_lr_ratio", 1.5, "schedule.min_lr_ratio=1.5 must lie between 0 and 1"),
        ("tokenizer", "vocab_size", 255, "tokenizer.vocab_size=255 must be at least 256"),
    ],
)
def test_a_number_out_of_range_is_refused_with_its_key(group, key, value, message):
    config = TrainConfig()
    setattr(getattr(config, group), key, value)
    with pytest.raises(UserError, match=message):
        config.validate()


@pytest.mark.parametrize(("devices", "whole", "forward_passes"), [(1, None, 1), (1, 96, 3), (3, None, 1), (3, 192, 2)])
def test_a_step_has_as_many_forward_passes_as_its_batch_needs(devices, whole, forward_passes):
    config = TrainConfig()
    config.data.global_batch_size = whole
    assert config.accumulate(devices) == forward_passes
    assert config.global_batch(devices) == 32 * devices * forward_passes


@pytest.mark.parametrize(("devices", "whole", "each"), [(1, 33, "data.batch_size=32"), (3, 64, "32 x 3 devices")])
def test_a_batch_that_the_devices_cannot_share_is_refused(devices, whole, each):
    config = TrainConfig()
    config.data.global_batch_size = whole
    with pytest.raises(UserError, match=rf"data\.global_batch_size={whole} is not divisible by .*{each}$"):
        config.accumulate(devices)


def test_the_defaults_are_valid():
    TrainConfig().validate()
