"""GPTConfig: everything that makes one model differ from another, as plain values.

Kinds are names, looked up in tables of classes: `position` in position.py, `norm` and `mlp` in
layers.py, `attention` in attention.py, `init` in gpt.py. Torch is not imported here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from headwise.errors import require


@dataclass
class GPTConfig:
    """Sizes and kinds of one model. The defaults are GPT-2's kinds at a laptop's size."""

    vocab_size: int = 0  # number of distinct tokens; 0 in a run's configuration means the tokenizer's
    block_size: int = 128  # longest sequence the model sees, in tokens
    n_layer: int = 4
    n_head: int = 4
    n_kv_head: int | None = None  # heads of keys and values, shared by groups of queries; null: as n_head
    n_embd: int = 128  # width of the residual stream
    head_dim: int | None = None  # width of one head's q, k and v; null: n_embd / n_head
    n_inner: int | None = None  # hidden width of the feed-forward network; null: 4 n_embd, swiglu 8/3 of it
    attention: str = "softmax"  # softmax, relu
    position: str = "learned"  # learned, sinusoidal, rotary, none
    norm: str = "layernorm"  # layernorm, rmsnorm
    mlp: str = "gelu"  # gelu, swiglu, relu2, none
    init: str = "scaled_normal"  # scaled_normal, zero_output
    bias: bool = True  # in linear layers and LayerNorm
    qk_norm: bool = False  # normalise each head's queries and keys before they meet
    tie_embeddings: bool = True  # the unembedding is the embedding's own matrix
    norm_eps: float = 1e-5
    rope_theta: float = 10000.0  # the longest wavelength of rotary positions is about 2 pi times this
    dropout: float = 0.0

    @property
    def kv_heads(self) -> int:
        """Number of key/value heads."""
        return self.n_head if self.n_kv_head is None else self.n_kv_head

    @property
    def head_width(self) -> int:
        """Width of one head's queries, keys and values (d_k)."""
        return self.n_embd // self.n_head if self.head_dim is None else self.head_dim

    def validate(self) -> None:
        """Raise UserError for sizes that cannot work, naming both numbers."""
        for name in ("n_layer", "n_head", "n_embd", "n_kv_head", "head_dim", "n_inner"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"model.{name}={value} must be at least 1")
        require(self.block_size >= 2, f"model.block_size={self.block_size} must be at least 2: a token and the next")
        require(
            self.head_dim is not None or self.n_embd % self.n_head == 0,
            f"model.n_embd={self.n_embd} is not divisible by n_head={self.n_head}",
        )
        require(
            self.n_head % self.kv_heads == 0,
            f"model.n_head={self.n_head} is not divisible by n_kv_head={self.n_kv_head}",
        )
        require(
            self.position != "rotary" or self.head_width % 2 == 0,
            f"model.position=rotary turns pairs, but the head's width is odd: {self.head_width}",
        )
        require(0 <= self.dropout < 1, f"model.dropout={self.dropout} must be at least 0 and below 1")
        for name in ("norm_eps", "rope_theta"):
            require(0 < getattr(self, name) < math.inf, f"model.{name}={getattr(self, name)} must be a number above 0")
