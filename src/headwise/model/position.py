"""How the model knows the positions of tokens, by name: learned, sinusoidal, rotary, alibi, none.

A kind of position adds to the token embeddings, once (`embed`), or rotates the queries and keys of every layer
(`rotate`) by `angles`, or adds a `bias` to the scaled scores of every layer. Angles and bias are those of
all layers.
The other methods return their input unchanged, or None.

Dimensions: B batch, T tokens, H heads, C = n_embd, D = head_dim. Positions are [T], or [B, T] where the sequences of a
batch begin at different tokens.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from headwise.config import ResolvedGPTConfig
from headwise.registry import table

Angles = tuple[Tensor, Tensor]  # cosines and sines, [(B,) 1, T, D/2] each


class Position(nn.Module):
    """Base class of all kinds. By itself it encodes no position: the causal mask alone gives the order (Haviv et al.
    2022)."""

    def __init__(self, config: ResolvedGPTConfig):
        super().__init__()

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        """Return embeddings x [B, T, C] with their positions [T] or [B, T] added."""
        return x

    def angles(self, positions: Tensor) -> Angles | None:
        """Return the angles of positions [T] or [B, T] for `rotate`."""
        return None

    def rotate(self, x: Tensor, angles: Angles | None) -> Tensor:
        """Return queries or keys x [B, H, T, D] rotated by `angles`."""
        return x

    def bias(self, query_positions: Tensor, key_positions: Tensor) -> Tensor | None:
        """Return what is added to the scaled scores, [H, Tq, Tk] or [1, Tq, Tk], for positions [Tq] and [Tk].
        Only distances may count: in a padded batch both are counted from the start of the padding."""
        return None


class LearnedPosition(Position):
    """One learned vector for each position, added to the embedding (GPT-2)."""

    def __init__(self, config: ResolvedGPTConfig):
        super().__init__(config)
        self.table = nn.Embedding(config.block_size, config.n_embd)

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        return x + self.table(positions)


class SinusoidalPosition(Position):
    """Sines and cosines of geometrically growing wavelengths, added to the embedding times sqrt(C), which brings the
    embedding up to their size (Vaswani et al. 2017, sections 3.4 and 3.5). Nothing is learned."""

    table: Tensor

    def __init__(self, config: ResolvedGPTConfig):
        super().__init__(config)
        even = torch.arange(0, config.n_embd, 2, dtype=torch.float64)  # 2i
        angle = torch.outer(torch.arange(config.block_size, dtype=torch.float64), 10000.0 ** (-even / config.n_embd))
        table = torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(-2)[:, : config.n_embd]  # [T, C]
        self.register_buffer("table", table.float(), persistent=False)

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        return x * math.sqrt(x.size(-1)) + self.table[positions].to(x.dtype)


class RotaryPosition(Position):
    """Queries and keys rotated by an angle that grows with the position, so that their product depends on the
    distance alone (Su et al. 2021, RoFormer, eq. 15). Feature i is paired with feature i + D/2."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: ResolvedGPTConfig):
        super().__init__(config)
        half = config.head_dim // 2
        frequency = config.rope_theta ** (-torch.arange(half, dtype=torch.float64) / half)
        angle = torch.outer(torch.arange(config.block_size, dtype=torch.float64), frequency)  # [T, D/2]
        self.register_buffer("cos", angle.cos().float(), persistent=False)
        self.register_buffer("sin", angle.sin().float(), persistent=False)

    def angles(self, positions: Tensor) -> Angles:
        return self.cos[positions].unsqueeze(-3), self.sin[positions].unsqueeze(-3)

    def rotate(self, x: Tensor, angles: Angles | None) -> Tensor:
        assert angles is not None
        cos, sin = angles[0].to(x.dtype), angles[1].to(x.dtype)
        a, b = x.chunk(2, dim=-1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class AlibiPosition(Position):
    """A bias on the scaled scores that falls with the distance of query and key, at a slope of its own in each head
    (Press et al. 2021, ALiBi). Nothing is learned, and the embeddings carry no position."""

    slopes: Tensor

    def __init__(self, config: ResolvedGPTConfig):
        super().__init__(config)
        self.register_buffer("slopes", torch.tensor(alibi_slopes(config.n_head)), persistent=False)

    def bias(self, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        distance = query_positions[:, None] - key_positions  # [Tq, Tk], negative for keys that are masked
        return -self.slopes[:, None, None] * distance


def alibi_slopes(n_head: int) -> list[float]:
    """Return the slope of each head: 2^(-8/n), 2^(-16/n), ... for n heads if n is a power of two. Otherwise those of
    the next lower power of two, and then every other one of the next higher (as in the paper's code)."""
    power = 2 ** int(math.log2(n_head))
    slopes = [2 ** (-8 * (i + 1) / power) for i in range(power)]
    return slopes + [2 ** (-8 * (i + 1) / (2 * power)) for i in range(0, 2 * (n_head - power), 2)]


POSITIONS: dict[str, type[Position]] = table(
    "position",
    {
        "learned": LearnedPosition,
        "sinusoidal": SinusoidalPosition,
        "rotary": RotaryPosition,
        "alibi": AlibiPosition,
        "none": Position,
    },
)
