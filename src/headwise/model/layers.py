"""The parts of a block other than attention, by name: norms (layernorm, rmsnorm) and feed-forward networks (gelu,
swiglu, relu2, none).

Dimensions: B batch, T tokens, C = n_embd, N = n_inner.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from headwise.config import ResolvedGPTConfig


def layer_norm(width: int, config: ResolvedGPTConfig) -> nn.Module:
    """Return (x - mean) / sqrt(variance + eps) * weight + bias as a module (Ba et al. 2016)."""
    return nn.LayerNorm(width, eps=config.norm_eps, bias=config.bias)


def rms_norm(width: int, config: ResolvedGPTConfig) -> nn.Module:
    """Return x / sqrt(mean(x^2) + eps) * weight as a module (Zhang & Sennrich 2019)."""
    return nn.RMSNorm(width, eps=config.norm_eps)


NORMS = {"layernorm": layer_norm, "rmsnorm": rms_norm}


class TwoLayerMLP(nn.Module):
    """down(activate(up(x))): x [B, T, C] -> [B, T, C]."""

    def __init__(self, config: ResolvedGPTConfig):
        super().__init__()
        self.up = nn.Linear(config.n_embd, config.n_inner, bias=config.bias)
        self.down = nn.Linear(config.n_inner, config.n_embd, bias=config.bias)

    def activate(self, hidden: Tensor) -> Tensor:
        """Return the activation of each hidden value [B, T, N]."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.activate(self.up(x)))


class GELU(TwoLayerMLP):
    """down(gelu(up(x))), with GPT-2's tanh approximation of GELU (Hendrycks & Gimpel 2016)."""

    def activate(self, hidden: Tensor) -> Tensor:
        if torch.compiler.is_compiling():  # equal, since (1 + tanh(u)) / 2 = sigmoid(2u), and faster when compiled
            return hidden * torch.sigmoid(math.sqrt(8 / math.pi) * hidden * (1 + 0.044715 * hidden * hidden))
        return F.gelu(hidden, approximate="tanh")


class ReLU2(TwoLayerMLP):
    """down(relu(up(x))^2) (So et al. 2021)."""

    def activate(self, hidden: Tensor) -> Tensor:
        hidden = F.relu(hidden)
        return hidden * hidden  # faster than .square(), whose backward goes through pow


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


MLPS = {"gelu": GELU, "swiglu": SwiGLU, "relu2": ReLU2, "none": NoMLP}
