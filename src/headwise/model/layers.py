"""The parts of a block other than attention, by name: norms (layernorm, rmsnorm) and feed-forward networks (gelu,
swiglu, relu2, none).

Dimensions: B batch, T tokens, C = n_embd, N = n_inner.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from headwise.config import ResolvedGPTConfig
from headwise.registry import table


def layer_norm(width: int, config: ResolvedGPTConfig) -> nn.Module:
    """Return (x - mean) / sqrt(variance + eps) * weight + bias as a module (Ba et al. 2016)."""
    return nn.LayerNorm(width, eps=config.norm_eps, bias=config.bias)


def rms_norm(width: int, config: ResolvedGPTConfig) -> nn.Module:
    """Return x / sqrt(mean(x^2) + eps) * weight as a module (Zhang & Sennrich 2019)."""
    return nn.RMSNorm(width, eps=config.norm_eps)


NORMS = table("norm", {"layernorm": layer_norm, "rmsnorm": rms_norm})


def gelu(x: Tensor) -> Tensor:
    """Return GPT-2's tanh approximation of GELU (Hendrycks & Gimpel 2016)."""
    if torch.compiler.is_compiling():  # equal, since (1 + tanh(u)) / 2 = sigmoid(2u), and faster when compiled
        return x * torch.sigmoid(math.sqrt(8 / math.pi) * x * (1 + 0.044715 * x * x))
    return F.gelu(x, approximate="tanh")


def relu2(x: Tensor) -> Tensor:
    """Return relu(x)^2 (So et al. 2021)."""
    x = F.relu(x)
    return x * x  # faster than .square(), whose backward goes through pow


class MLP(nn.Module):
    """down(activation(up(x))): x [B, T, C] -> [B, T, C], with N hidden values for each token."""

    def __init__(self, config: ResolvedGPTConfig, activation: Callable[[Tensor], Tensor]):
        super().__init__()
        self.up = nn.Linear(config.n_embd, config.n_inner, bias=config.bias)
        self.down = nn.Linear(config.n_inner, config.n_embd, bias=config.bias)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.activation(self.up(x)))


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)) (Shazeer 2020): x [B, T, C] -> [B, T, C]."""

    def __init__(self, config: ResolvedGPTConfig):
        super().__init__()
        self.gate = nn.Linear(config.n_embd, config.n_inner, bias=config.bias)
        self.up = nn.Linear(config.n_embd, config.n_inner, bias=config.bias)
        self.down = nn.Linear(config.n_inner, config.n_embd, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class NoMLP(nn.Module):
    """Zero, so that a model is attention alone, for studying heads (Elhage et al. 2021)."""

    def __init__(self, config: ResolvedGPTConfig):
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


MLPS: dict[str, Callable[[ResolvedGPTConfig], nn.Module]] = table(
    "mlp",
    {
        "gelu": partial(MLP, activation=gelu),
        "swiglu": SwiGLU,
        "relu2": partial(MLP, activation=relu2),
        "none": NoMLP,
    },
)
