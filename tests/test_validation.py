"""Validation: what is out of its range, or does not go together, is refused with its key, value and remedy."""

import pytest

from headwise.config import DataConfig, GPTConfig, SweepConfig, TrainConfig, schema_fields
from headwise.errors import UserError
from headwise.validation import batch_arithmetic, range_in_words, validate, validate_model


@pytest.mark.parametrize(
    ("group", "key", "value", "message"),
    [
        ("optimizer", "lr", 0.0, "optimizer.lr=0.0 must be above 0"),
        ("optimizer", "lr", float("inf"), "optimizer.lr=inf must be above 0"),
        ("data", "path", "my.txt", "data.path=my.txt is for data=files, and the text is that of python_docs"),
        ("optimizer", "beta2", 1.0, "optimizer.beta2=1.0 must be at least 0 and below 1"),
        ("trainer", "max_steps", 0, "trainer.max_steps=0 must be at least 1"),
        ("data", "batch_size", 0, "data.batch_size=0 must be at least 1"),
        ("schedule", "min_lr_ratio", 1.5, "schedule.min_lr_ratio=1.5 must be at least 0 and at most 1"),
        ("tokenizer", "vocab_size", 255, "tokenizer.vocab_size=255 must be at least 256"),
    ],
)
def test_a_number_out_of_range_is_refused_with_its_key(group, key, value, message):
    config = TrainConfig()
    setattr(getattr(config, group), key, value)
    with pytest.raises(UserError, match=message):
        validate(config)


@pytest.mark.parametrize(("devices", "whole", "forward_passes"), [(1, None, 1), (1, 96, 3), (3, None, 1), (3, 192, 2)])
def test_a_step_has_as_many_forward_passes_as_its_batch_needs(devices, whole, forward_passes):
    data = DataConfig(global_batch_size=whole)
    assert batch_arithmetic(data, devices) == (32 * devices * forward_passes, forward_passes)


@pytest.mark.parametrize(("devices", "whole", "each"), [(1, 33, "data.batch_size=32"), (3, 64, "32 x 3 devices")])
def test_a_batch_that_the_devices_cannot_share_is_refused(devices, whole, each):
    data = DataConfig(global_batch_size=whole)
    with pytest.raises(UserError, match=rf"data\.global_batch_size={whole} is not divisible by .*{each}$"):
        batch_arithmetic(data, devices)


def test_the_defaults_are_valid():
    validate(TrainConfig())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n_embd": 130, "n_head": 4}, "model.n_embd=130 is not divisible by n_head=4"),
        ({"n_head": 4, "n_kv_head": 3}, "model.n_head=4 is not divisible by n_kv_head=3"),
        ({"n_layer": 0}, "model.n_layer=0 must be at least 1"),
        ({"head_dim": -2}, "model.head_dim=-2 must be at least 1"),
        ({"dropout": 1.0}, "model.dropout=1.0 must be at least 0 and below 1"),
        ({"position": "rotary", "n_embd": 15, "n_head": 5}, "width is odd: 3"),
    ],
)
def test_model_sizes_that_cannot_work_are_refused_with_its_numbers(wrong, message):
    with pytest.raises(UserError, match=message):
        validate_model(GPTConfig(**wrong))


def test_validate_model_accepts_any_n_embd_with_a_head_dim():
    validate_model(GPTConfig(n_embd=41, n_head=3, head_dim=5))


def test_every_key_has_a_meaning():
    assert [key for key, one in schema_fields(SweepConfig()) if not one.metadata.get("meaning")] == []


def test_a_range_is_put_into_words():
    assert range_in_words({"at_least": 0, "below": 1 << 32}) == "at least 0 and below 4,294,967,296"
