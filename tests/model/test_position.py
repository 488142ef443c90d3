"""Positions: what each kind adds or turns."""

import math

import pytest
import torch

from headwise.config import GPTConfig
from headwise.model.position import POSITIONS, LearnedPosition, Position, RotaryPosition, SinusoidalPosition

CONFIG = GPTConfig(n_embd=42, n_head=3, block_size=19).resolved()


def rotated(position, x, positions):
    return position.rotate(x, position.angles(positions))


def test_rotary_products_depend_on_the_distance_alone():
    rotary = RotaryPosition(CONFIG)
    q, k = torch.randn(1, 3, 1, 14), torch.randn(1, 3, 1, 14)

    def product(i, j):
        return (rotated(rotary, q, torch.tensor([i])) * rotated(rotary, k, torch.tensor([j]))).sum(-1)

    assert torch.allclose(product(11, 4), product(18, 11), atol=1e-5)
    assert not torch.allclose(product(11, 4), product(11, 5), atol=1e-2)


def test_rotary_keeps_lengths_and_leaves_position_zero_alone():
    rotary = RotaryPosition(CONFIG)
    x = torch.randn(2, 3, 19, 14)
    turned = rotated(rotary, x, torch.arange(19))
    assert torch.allclose(turned.norm(dim=-1), x.norm(dim=-1), atol=1e-5)
    assert torch.equal(turned[:, :, 0], x[:, :, 0])


def test_learned_adds_its_row_to_every_batch_and_turns_nothing():
    learned = LearnedPosition(CONFIG)
    x = torch.randn(2, 5, 42)
    assert torch.equal(learned.embed(x, torch.arange(5))[1, 3], x[1, 3] + learned.table.weight[3])
    assert rotated(learned, x, torch.arange(5)) is x


def test_no_position_changes_nothing():
    none, x = Position(CONFIG), torch.randn(2, 5, 42)
    assert none.embed(x, torch.arange(5)) is x
    assert rotated(none, x, torch.arange(5)) is x


def test_sinusoidal_adds_the_waves_of_the_paper_to_the_scaled_embedding():
    for width in (42, 41):
        waves = SinusoidalPosition(GPTConfig(n_embd=width, n_head=1, block_size=19))
        x = torch.randn(2, 5, width)
        added = waves.embed(x, torch.arange(5)) - x * math.sqrt(width)
        for t, i in ((0, 0), (3, 4), (4, 7), (2, 40)):
            angle = t / 10000 ** (2 * (i // 2) / width)
            expected = math.cos(angle) if i % 2 else math.sin(angle)
            assert math.isclose(added[1, t, i].item(), expected, abs_tol=1e-5)
        assert rotated(waves, x, torch.arange(5)) is x
        assert not list(waves.parameters())


@pytest.mark.parametrize("kind", POSITIONS)
def test_positions_may_differ_between_the_sequences_of_a_batch(kind):
    torch.manual_seed(0)
    position = POSITIONS[kind](CONFIG)
    x, heads = torch.randn(2, 5, 42), torch.randn(2, 3, 5, 14)
    own = torch.stack((torch.arange(5), torch.arange(7, 12)))
    for b in range(2):
        alone = slice(b, b + 1)
        assert torch.equal(position.embed(x, own)[alone], position.embed(x[alone], own[b]))
        assert torch.equal(rotated(position, heads, own)[alone], rotated(position, heads[alone], own[b]))
