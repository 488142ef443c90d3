"""One layer: tokens exchange information (attention), then each is worked on alone (feed-forward).

Dimensions: B batch, T tokens, C = n_embd, N = n_inner.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from headwise.errors import choose
from headwise.model.attention import CausalSelfAttention
from headwise.model.config import GPTConfig
from headwise.model.kv_cache import LayerCache
from headwise.model.norm import NORMS
from headwise.model.position import Angles, NoPosition


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


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)): x [B, T, C] -> [B, T, C]."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        norm = choose("model.norm", config.norm, NORMS)
        self.attention_norm = norm(config.n_embd, config)
        self.attention = CausalSelfAttention(config)
        self.mlp_norm = nn.Identity() if config.mlp == "none" else norm(config.n_embd, config)
        self.mlp = choose("model.mlp", config.mlp, MLPS)(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        position: NoPosition,
        angles: Angles | None,
        mask: Tensor | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        x = x + self.attention(self.attention_norm(x), position, angles, mask, cache)
        return x + self.dropout(self.mlp(self.mlp_norm(x)))
