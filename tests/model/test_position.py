"""Positions: what each kind adds or turns."""

import math

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention
from transformers.models.bloom.modeling_bloom import build_alibi_tensor

from headwise.config import GPTConfig
from headwise.model.attention import causal_mask, fused_attention, reference_attention
from headwise.model.position import (
    POSITIONS,
    AlibiPosition,
    LearnedPosition,
    Position,
    RotaryPosition,
    SinusoidalPosition,
)

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
    assert none.bias(torch.arange(5), torch.arange(5)) is None


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


@pytest.mark.parametrize("heads", [1, 2, 3, 5, 8, 12, 16, 25])
def test_alibi_has_the_slopes_and_the_bias_of_transformers_bloom(heads):
    """Up to a constant in each row, which softmax ignores: Bloom multiplies the slope and the position of the key."""
    alibi = AlibiPosition(GPTConfig(n_embd=2 * heads, n_head=heads, block_size=19).resolved())
    theirs = build_alibi_tensor(torch.ones(1, 19), heads, torch.float32).expand(heads, 19, 19)
    ours = alibi.bias(torch.arange(19), torch.arange(19))
    assert torch.allclose(ours, theirs - theirs.diagonal(dim1=1, dim2=2)[..., None], atol=1e-5)
    assert torch.equal(ours[:, 11:], alibi.bias(torch.arange(11, 19), torch.arange(19)))


@pytest.mark.parametrize("groups", [6, 3])
@pytest.mark.parametrize(("n_query", "padding"), [(11, None), (4, None), (1, None), (11, (0, 4))])
def test_attention_with_alibi_equals_torch_flex_attention_and_the_fused_kernel(groups, n_query, padding):
    torch.manual_seed(0)
    alibi = AlibiPosition(GPTConfig(n_embd=42, n_head=6).resolved())
    q, k, v = torch.randn(2, 6, n_query, 7), torch.randn(2, groups, 11, 7), torch.randn(2, groups, 11, 7)
    queries, keys = torch.arange(11 - n_query, 11), torch.arange(11)
    bias, mask = alibi.bias(queries, keys), None
    first = torch.tensor(padding or (0, 0))
    if padding:
        mask = causal_mask(11, 11) & (keys >= first[:, None, None, None])

    def score_mod(score, b, h, i, j):
        visible = (j <= i + 11 - n_query) & (j >= first[b])
        return torch.where(visible, score - alibi.slopes[h] * (i + 11 - n_query - j), -torch.inf)

    expected = flex_attention(q, k, v, score_mod=score_mod, enable_gqa=True)
    for attend in (reference_attention, fused_attention):
        z, _ = attend(q, k, v, mask, 0.0, bias)
        real = slice(4, None) if padding else slice(None)  # queries of the padding see no key
        assert torch.allclose(z[:, :, real], expected[:, :, real], atol=1e-5)


def test_fused_attention_with_alibi_has_the_gradients_of_the_reference():
    alibi = AlibiPosition(CONFIG)
    bias, gradients = alibi.bias(torch.arange(13), torch.arange(13)), []
    for attend in (reference_attention, fused_attention):
        torch.manual_seed(0)
        inputs = [torch.randn(2, 3, 13, 14, requires_grad=True) for _ in range(3)]
        z, _ = attend(*inputs, None, 0.0, bias)
        (z * torch.randn_like(z)).sum().backward()
        gradients.append([x.grad for x in inputs])
    for a, b in zip(*gradients, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


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
