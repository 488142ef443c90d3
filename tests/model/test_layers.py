"""Norms and feed-forward networks against their equations, and the residual stream."""

from dataclasses import replace

import pytest
import torch

from headwise.config import GPTConfig
from headwise.model.gpt import Block
from headwise.model.layers import MLPS, NORMS
from headwise.model.position import Position

CONFIG = GPTConfig(n_embd=21, n_head=3).resolved()


def test_feed_forward_networks_compute_their_equations():
    x = torch.randn(2, 5, 21)
    mlp = MLPS["gelu"](CONFIG)
    up = mlp.up(x)
    gelu = 0.5 * up * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (up + 0.044715 * up**3)))
    assert torch.allclose(mlp(x), mlp.down(gelu), atol=1e-6)
    mlp = MLPS["swiglu"](GPTConfig(n_embd=21, n_head=3, mlp="swiglu").resolved())
    gate = mlp.gate(x)
    assert torch.allclose(mlp(x), mlp.down(gate * torch.sigmoid(gate) * mlp.up(x)), atol=1e-6)
    mlp = MLPS["relu2"](CONFIG)
    assert torch.allclose(mlp(x), mlp.down(mlp.up(x).clamp(min=0) ** 2), atol=1e-6)
    assert not MLPS["none"](CONFIG)(x).any()


def test_a_block_without_feed_forward_is_attention_alone():
    block, x = Block(GPTConfig(n_embd=21, n_head=3, mlp="none").resolved()), torch.randn(2, 5, 21)
    arguments = Position(CONFIG), torch.arange(5)
    assert torch.equal(block(x, *arguments), x + block.attention(block.attention_norm(x), *arguments))
    assert {name.split(".")[0] for name, _ in block.named_parameters()} == {"attention_norm", "attention"}


@pytest.mark.parametrize(("kind", "inner"), [("gelu", 84), ("relu2", 84), ("swiglu", 56)])
def test_default_n_inner_gives_all_kinds_as_many_parameters(kind, inner):
    config = GPTConfig(n_embd=21, n_head=3, mlp=kind)
    assert MLPS[kind](config.resolved()).down.in_features == inner
    assert MLPS[kind](replace(config, n_inner=13).resolved()).down.in_features == 13


def test_compiled_gelu_equals_gpt2s():
    mlp, x = MLPS["gelu"](CONFIG), 3 * torch.randn(2, 5, 21)
    expected = mlp(x)
    assert torch.allclose(torch.compile(mlp, backend="eager")(x), expected, atol=1e-6)


def test_block_adds_to_the_stream_and_feeds_each_token_forward_alone():
    torch.manual_seed(0)
    block, x = Block(CONFIG), torch.randn(2, 5, 21)
    arguments = Position(CONFIG), torch.arange(5)
    middle = x + block.attention(block.attention_norm(x), *arguments)
    assert torch.allclose(block(x, *arguments), middle + block.mlp(block.mlp_norm(middle)), atol=1e-6)
    torch.nn.init.zeros_(block.attention.out.weight)
    changed = x.clone()
    changed[:, 2] += 1
    same = [0, 1, 3, 4]
    assert torch.allclose(block(x, *arguments)[:, same], block(changed, *arguments)[:, same], atol=1e-6)


def test_norms_compute_their_equations():
    x = torch.randn(3, 5, 7)
    config = GPTConfig(norm_eps=0.1)
    norms = {name: make(7, config) for name, make in NORMS.items()}
    for norm in norms.values():
        norm.weight.data = torch.linspace(0.5, 2, 7)
    norms["layernorm"].bias.data = torch.linspace(-1, 1, 7)
    centred = x - x.mean(-1, keepdim=True)
    expected = centred / (x.var(-1, unbiased=False, keepdim=True) + 0.1).sqrt() * torch.linspace(0.5, 2, 7)
    assert torch.allclose(norms["layernorm"](x), expected + torch.linspace(-1, 1, 7), atol=1e-6)
    expected = x / (x.square().mean(-1, keepdim=True) + 0.1).sqrt() * torch.linspace(0.5, 2, 7)
    assert torch.allclose(norms["rmsnorm"](x), expected, atol=1e-6)


def test_layernorm_without_biases_has_none():
    assert NORMS["layernorm"](7, GPTConfig(bias=False)).bias is None
