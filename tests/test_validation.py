"""Validation: values out of range, and keys that do not go together, are refused with key, value and remedy."""

import pytest

from headwise.config import GPTConfig, SweepConfig, TrainConfig
from headwise.config_keys import schema_fields
from headwise.errors import UserError
from headwise.validation import range_in_words, validate, validate_model


@pytest.mark.parametrize(
    ("group", "key", "value", "message"),
    [
        ("optimizer", "lr", 0.0, "optimizer.lr=0.0 must be above 0"),
        ("optimizer", "lr", float("inf"), "optimizer.lr=inf must be a finite number, above 0"),
        ("data", "path", "my.txt", "data.path=my.txt is for data=files, but data.source is python_docs"),
        ("optimizer", "beta2", 1.0, "optimizer.beta2=1.0 must be at least 0 and below 1"),
        ("trainer", "max_steps", 0, "trainer.max_steps=0 must be at least 1"),
        ("data", "batch_size", 0, "data.batch_size=0 must be at least 1"),
        ("schedule", "min_lr_ratio", 1.5, "schedule.min_lr_ratio=1.5 must be at least 0 and at most 1"),
        ("tokenizer", "vocab_size", 255, "tokenizer.vocab_size=255 must be at least 256"),
    ],
)
def test_validate_refuses_a_number_out_of_range_with_its_key(group, key, value, message):
    config = TrainConfig()
    setattr(getattr(config, group), key, value)
    with pytest.raises(UserError, match=message):
        validate(config)


def test_validate_accepts_the_defaults():
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
def test_validate_model_refuses_sizes_that_do_not_go_together(wrong, message):
    with pytest.raises(UserError, match=message):
        validate_model(GPTConfig(**wrong))


def test_validate_model_accepts_any_n_embd_with_a_head_dim():
    validate_model(GPTConfig(n_embd=41, n_head=3, head_dim=5))


def test_every_key_has_a_meaning():
    assert [key for key, one in schema_fields(SweepConfig()) if not one.metadata.get("meaning")] == []


def test_range_in_words():
    assert range_in_words({"at_least": 0, "below": 1 << 32}) == "at least 0 and below 4,294,967,296"
