"""Positions: what each kind adds or turns."""

import torch

from headwise.model.config import GPTConfig
from headwise.model.position import LearnedPosition, NoPosition, RotaryPosition

CONFIG = GPTConfig(n_embd=42, n_head=3, block_size=19)


def test_rotary_products_depend_on_the_distance_alone():
    rotary = RotaryPosition(CONFIG)
    q, k = torch.randn(1, 3, 1, 14), torch.randn(1, 3, 1, 14)

    def product(i, j):
        return (rotary.rotate(q, torch.tensor([i])) * rotary.rotate(k, torch.tensor([j]))).sum(-1)

    assert torch.allclose(product(11, 4), product(18, 11), atol=1e-5)
    assert not torch.allclose(product(11, 4), product(11, 5), atol=1e-2)


def test_rotary_keeps_lengths_and_leaves_position_zero_alone():
    rotary = RotaryPosition(CONFIG)
    x = torch.randn(2, 3, 19, 14)
    turned = rotary.rotate(x, torch.arange(19))
    assert torch.allclose(turned.norm(dim=-1), x.norm(dim=-1), atol=1e-5)
    assert torch.equal(turned[:, :, 0], x[:, :, 0])


def test_learned_adds_its_row_to_every_batch_and_turns_nothing():
    learned = LearnedPosition(CONFIG)
    x = torch.randn(2, 5, 42)
    assert torch.equal(learned.embed(x, torch.arange(5))[1, 3], x[1, 3] + learned.table.weight[3])
    assert learned.rotate(x, torch.arange(5)) is x


def test_none_changes_nothing():
    none, x = NoPosition(CONFIG), torch.randn(2, 5, 42)
    assert none.embed(x, torch.arange(5)) is x
    assert none.rotate(x, torch.arange(5)) is x
