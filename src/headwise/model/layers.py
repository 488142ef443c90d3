"""The parts of a block beside attention, by name: norms (layernorm, rmsnorm) and feed-forward networks (gelu, swiglu,
relu2, none).

Dimensions: B batch, T tokens, C = n_embd, N = n_inner.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from headwise.config import GPTConfig


def layer_norm(width: int, config: GPTConfig) -> nn.Module:
    """(x - mean) / sqrt(variance + eps) * weight + bias (Ba et al. 2016)."""
    return nn.LayerNorm(width, eps=config.norm_eps, bias=config.bias)


def rms_norm(width: int, config: GPTConfig) -> nn.Module:
    """x / sqrt(mean(x^2) + eps) * weight (Zhang & Sennrich 2019)."""
    return nn.RMSNorm(width, eps=config.norm_eps)


NORMS = {"layernorm": layer_norm, "rmsnorm": rms_norm}


class TwoLayerMLP(nn.Module):
    """down(activate(up(x))), 4 n_embd wide by default."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        inner = config.n_inner or 4 * config.n_embd
        self.up = nn.Linear(config.n_embd, inner, bias=config.bias)
        self.down = nn.Linear(inner, config.n_embd, bias=config.bias)

    def activate(self, hidden: Tensor) -> Tensor:
        """What happens to each hidden value [B, T, N]."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.activate(self.up(x)))


class GELU(TwoLayerMLP):
    """down(gelu(up(x))), with GPT-2's tanh approximation of GELU (Hendrycks & Gimpel 2016)."""

    def activate(self, hidden: Tensor) -> Tensor:
        if torch.compiler.is_compiling():  # the same with (1 + tanh(u)) / 2 = sigmoid(2u): compiled, the quicker one
            return hidden * torch.sigmoid(math.sqrt(8 / math.pi) * hidden * (1 + 0.044715 * hidden * hidden))
        return F.gelu(hidden, approximate="tanh")


class ReLU2(TwoLayerMLP):
    """down(relu(up(x))^2) (So et al. 2021)."""

    def activate(self, hidden: Tensor) -> Tensor:
        hidden = F.relu(hidden)
        return hidden * hidden  # faster than .square(), whose backward goes through pow


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)) (Shazeer 2020); 8/3 n_embd wide by default, so that its three matrices
    hold as many parameters as GELU's two, rounded up to a multiple of 8, which products are quicker with."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        inner = config.n_inner or 8 * math.ceil(config.n_embd / 3)
        self.gate = nn.Linear(config.n_embd, inner, bias=config.bias)
        self.up = nn.Linear(config.n_embd, inner, bias=config.bias)
        self.down = nn.Linear(inner, config.n_embd, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class NoMLP(nn.Module):
    """Adds nothing: a model of attention alone, for studying heads (Elhage et al. 2021)."""

    def __init__(self, config: GPTConfig):
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


MLPS = {"gelu": GELU, "swiglu": SwiGLU, "relu2": ReLU2, "none": NoMLP}
