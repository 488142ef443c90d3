"""GPTConfig refuses sizes that cannot work and names both numbers."""

import pytest

from headwise.errors import UserError
from headwise.model.config import GPTConfig


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
def test_what_cannot_work_is_refused_with_its_numbers(wrong, message):
    with pytest.raises(UserError, match=message):
        GPTConfig(**wrong).validate()


def test_head_width_follows_from_the_sizes_unless_given():
    assert GPTConfig(n_embd=42, n_head=3).head_width == 14
    assert GPTConfig(n_embd=41, n_head=3, head_dim=5).head_width == 5
    GPTConfig(n_embd=41, n_head=3, head_dim=5).validate()
