"""The whole model: embeddings, a stack of blocks, and logits for the next token.

    model = GPT(GPTConfig(vocab_size=65))
    logits = model(ids)                            # [B, T] -> [B, T, V]
    loss = next_token_loss(logits, targets)

Dimensions: B batch, T tokens, C = n_embd, V = vocab_size.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from headwise.config import GPTConfig, ResolvedGPTConfig
from headwise.errors import choose, require
from headwise.model.attention import CausalSelfAttention, causal_mask
from headwise.model.kv_cache import KVCache, LayerCache
from headwise.model.layers import MLPS, NORMS
from headwise.model.position import POSITIONS, Angles, Position
from headwise.registry import table
from headwise.validation import validate_model

IGNORE = -100  # a target that does not count
RESIDUAL_OUTPUTS = ("attention.out.weight", "mlp.down.weight")  # whose products are added to the residual stream


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)): x [B, T, C] -> [B, T, C]."""

    def __init__(self, config: ResolvedGPTConfig):
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
        position: Position,
        angles: Angles | None,
        mask: Tensor | None = None,
        cache: LayerCache | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        x = x + self.attention(self.attention_norm(x), position, angles, mask, cache, bias)
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class GPT(nn.Module):
    """A decoder-only transformer. With the kinds of configs/model/gpt2.yaml it is GPT-2 (Radford et al.
    2019), with those of qwen3.yaml Qwen3 (Yang et al. 2025)."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        validate_model(config)
        require(config.vocab_size >= 1, f"model.vocab_size={config.vocab_size} must be at least 1")
        self.config = config = config.resolved()
        self.embedding = nn.Embedding(config.vocab_size, config.n_embd)
        self.position = choose("model.position", config.position, POSITIONS)(config)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = choose("model.norm", config.norm, NORMS)(config.n_embd, config)
        self.head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.tie()
        choose("model.init", config.init, INITS)(self)

    @classmethod
    def from_weights(cls, config: GPTConfig, weights: dict[str, Tensor]) -> GPT:
        """Return a float32 model with a copy of these weights, named as in state_dict(), without initializing it at
        random first."""
        with empty_init():
            model = cls(config)
        model.load_state_dict({name: value.float().clone() for name, value in weights.items()}, assign=True)
        model.tie()
        return model

    def tie(self) -> None:
        """Use the embedding's matrix as the unembedding if the configuration says so."""
        if self.config.tie_embeddings:
            self.head.weight = self.embedding.weight

    def forward(self, ids: Tensor, padding: Tensor | None = None, cache: KVCache | None = None) -> Tensor:
        """Return logits [B, T, V] for token ids [B, T]; those at position t predict the token at t + 1.

        Where the sequences of a batch differ in length, the shorter ones have `padding` [B] tokens before their first,
        which no token attends to and whose own logits are meaningless. With a `cache`, ids are the tokens after those
        in the cache, and are added to it; give the same padding each time. Raise ValueError for more tokens than
        block_size or the cache holds.
        """
        return self.unembed(self.hidden(ids, padding, cache))

    def last_logits(self, ids: Tensor, padding: Tensor | None = None, cache: KVCache | None = None) -> Tensor:
        """Return forward's logits at the last position, [B, V], without computing the others."""
        return self.unembed(self.hidden(ids, padding, cache)[:, -1])

    def unembed(self, x: Tensor) -> Tensor:
        """Return logits [..., V] from the residual stream [..., C] after all blocks."""
        return self.head(self.norm(x))

    def hidden(self, ids: Tensor, padding: Tensor | None = None, cache: KVCache | None = None) -> Tensor:
        """Return the residual stream [B, T, C] after all blocks; arguments and errors are those of forward."""
        seen = cache.length if cache is not None else 0
        total = seen + ids.size(1)
        if total > self.config.block_size:
            raise ValueError(f"a sequence of {total} tokens is longer than block_size={self.config.block_size}")
        if cache is not None and total > cache.size:
            raise ValueError(f"a sequence of {total} tokens is longer than the cache's size={cache.size}")
        if cache is not None and len(ids) != cache.batch_size:
            raise ValueError(f"a batch of {len(ids)} sequences does not fit the cache's batch_size={cache.batch_size}")
        slots = torch.arange(total, device=ids.device)
        positions, mask = slots[seen:], None  # None is the causal mask
        if padding is not None:
            positions = (positions - padding[:, None]).clamp(min=0)  # [B, T]: each sequence's own first token is 0
            real = slots >= padding[:, None, None, None]
            mask = causal_mask(ids.size(1), total, ids.device) & real  # [B, 1, T, Tk]
        elif seen and ids.size(1) > 1:
            mask = causal_mask(ids.size(1), total, ids.device)  # once, for all layers
        x = self.dropout(self.position.embed(self.embedding(ids), positions))  # [B, T, C]
        angles, bias = self.position.angles(positions), self.position.bias(slots[seen:], slots)
        for i, block in enumerate(self.blocks):
            x = block(x, self.position, angles, mask, None if cache is None else cache.layer(i), bias)
        if cache is not None:
            cache.length = total
        return x

    def n_parameters(self) -> int:
        """Return the number of trained values; a tied matrix counts once."""
        return sum(p.numel() for p in self.parameters())

    def flops_per_token(self) -> int:
        """Return the operations of training per token, forward and backward: 6 for each weight of a matrix that is
        multiplied (embeddings are only looked up), and 12 H D T per layer for scores and z, without regard to the
        mask (Chowdhery et al. 2022, appendix B)."""
        c = self.config
        weights = sum(m.weight.numel() for m in self.modules() if isinstance(m, nn.Linear))
        return 6 * weights + 12 * c.n_layer * c.n_head * c.head_dim * c.block_size


class empty_init(TorchFunctionMode):
    """A context in which torch.nn.init leaves tensors uninitialised, for models whose weights are loaded next. (The
    meta device would also do, but imports torch's compiler, which takes a second.)"""

    def __torch_function__(
        self, func: Callable, types: Iterable[type], args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        initializes = getattr(func, "__module__", None) == "torch.nn.init"  # no module uses what these return
        return None if initializes else func(*args, **(kwargs or {}))


def next_token_loss(logits: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
    """Return the cross-entropy in nats of logits [B, T, V] against the tokens that follow, targets [B, T]; targets
    that are IGNORE do not count. Computed in float32 at least."""
    logits = logits.flatten(0, 1)
    logits = logits.float() if logits.dtype.itemsize < 4 else logits
    return F.cross_entropy(logits, targets.flatten(), ignore_index=IGNORE, reduction=reduction)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put the model in eval mode inside a `with` block, and every part back in its own mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def uncompiled() -> AbstractContextManager:
    """Return a context in which compiled modules run uncompiled. Importing torch's compiler takes a second, so it is
    not imported if nothing was compiled."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


def scaled_normal_init(model: GPT) -> None:
    """Draw weights from a normal distribution with deviation 0.02; biases are zero. What writes to the residual stream
    is divided by sqrt(2 n_layer), so that its variance does not grow with depth (Radford et al. 2019, section 2.3)."""
    for name, p in model.named_parameters():
        if p.dim() >= 2:
            shrink = math.sqrt(2 * model.config.n_layer) if name.endswith(RESIDUAL_OUTPUTS) else 1.0
            nn.init.normal_(p, std=0.02 / shrink)
        elif name.endswith("bias"):
            nn.init.zeros_(p)


def zero_output_init(model: GPT) -> None:
    """Do as scaled_normal_init, but set what writes to the residual stream or the logits to zero: every block is the
    identity and the first loss is ln(vocab_size). A tied head is the embedding too, and keeps its values."""
    scaled_normal_init(model)
    for name, p in model.named_parameters():
        if name.endswith(RESIDUAL_OUTPUTS) or name == "head.weight":
            nn.init.zeros_(p)


INITS = table("init", {"scaled_normal": scaled_normal_init, "zero_output": zero_output_init})
