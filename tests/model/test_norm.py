"""Norms against their equations."""

import torch

from headwise.model.config import GPTConfig
from headwise.model.norm import NORMS


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


def test_a_model_without_biases_has_none_in_layernorm_either():
    assert NORMS["layernorm"](7, GPTConfig(bias=False)).bias is None
