"""The whole model: embeddings, a stack of blocks, and a score for every possible next token.

Dimensions: B batch, T tokens, C = n_embd, V = vocab_size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from headwise.config import GPTConfig
from headwise.errors import choose, require
from headwise.model.attention import CausalSelfAttention, causal_mask
from headwise.model.kv_cache import KVCache, LayerCache
from headwise.model.layers import MLPS, NORMS
from headwise.model.position import POSITIONS, Angles, NoPosition
from headwise.validation import validate_model

IGNORE = -100  # a target that does not count
WRITES_TO_STREAM = ("attention.out.weight", "mlp.down.weight")  # what a block adds to the residual stream


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


class GPT(nn.Module):
    """A decoder-only transformer. With the kinds of configs/model/gpt2.yaml it is GPT-2 (Radford et al.
    2019), with those of qwen3.yaml Qwen3 (Yang et al. 2025)."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        validate_model(config)
        require(config.vocab_size >= 1, f"model.vocab_size={config.vocab_size} must be at least 1")
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.n_embd)
        self.position = choose("model.position", config.position, POSITIONS)(config)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = choose("model.norm", config.norm, NORMS)(config.n_embd, config)
        self.head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.tie()
        choose("model.init", config.init, INITS)(self)

    @classmethod
    def undrawn(cls, config: GPTConfig) -> GPT:
        """A model whose weights are whatever was in memory, for those who bring their own."""
        with Undrawn():
            return cls(config)

    @classmethod
    def from_weights(cls, config: GPTConfig, weights: dict[str, Tensor]) -> GPT:
        """A float32 model with these weights, named as in state_dict(); quicker than loading them into a
        model, for which random ones are drawn first."""
        model = cls.undrawn(config)
        model.load_state_dict({name: value.float().clone() for name, value in weights.items()}, assign=True)
        model.tie()
        return model

    def tie(self) -> None:
        """Where the configuration says so, make the unembedding the embedding's own matrix."""
        if self.config.tie_embeddings:
            self.head.weight = self.embedding.weight

    def forward(self, ids: Tensor, padding: Tensor | None = None, cache: KVCache | None = None) -> Tensor:
        """Token ids [B, T] -> logits [B, T, V]; those at position t speak of the token at t + 1.

        Where the sequences of a batch differ in length, the shorter ones have `padding` [B] tokens before their first,
        which nobody sees and whose own logits mean nothing. With a `cache`, ids are the tokens after those it holds,
        and it holds these too afterwards; give the same padding each time. Raises ValueError for more tokens than
        block_size or the cache can take.
        """
        return self.head(self.norm(self.stream(ids, padding, cache)))

    def last_logits(self, ids: Tensor, padding: Tensor | None = None, cache: KVCache | None = None) -> Tensor:
        """What forward gives at the last position, [B, V], without the work for the others."""
        return self.head(self.norm(self.stream(ids, padding, cache)[:, -1]))

    def stream(self, ids: Tensor, padding: Tensor | None = None, cache: KVCache | None = None) -> Tensor:
        """The residual stream [B, T, C] after all blocks, for what forward is given."""
        seen = cache.length if cache is not None else 0
        total = seen + ids.size(1)
        if total > self.config.block_size:
            raise ValueError(f"a sequence of {total} tokens is longer than block_size={self.config.block_size}")
        if cache is not None and total > cache.size:
            raise ValueError(f"a sequence of {total} tokens is longer than the cache's size={cache.size}")
        if cache is not None and len(ids) != cache.batch:
            raise ValueError(f"a batch of {len(ids)} sequences does not fit the cache's batch={cache.batch}")
        slots = torch.arange(total, device=ids.device)
        positions, mask = slots[seen:], None  # no mask: the causal one
        if seen and ids.size(1) > 1:
            mask = causal_mask(ids.size(1), total, ids.device)  # once, for all layers
        if padding is not None:
            positions = (positions - padding[:, None]).clamp(min=0)  # [B, T]: each sequence's own first token is 0
            mask = causal_mask(ids.size(1), total, ids.device) & (
                slots >= padding[:, None, None, None]
            )  # [B, 1, T, Tk]
        x = self.dropout(self.position.embed(self.embedding(ids), positions))  # [B, T, C]
        angles = self.position.angles(positions)
        for i, block in enumerate(self.blocks):
            x = block(x, self.position, angles, mask, None if cache is None else cache.layer(i))
        if cache is not None:
            cache.length = total
        return x

    def n_parameters(self) -> int:
        """Number of trained values; a tied matrix counts once."""
        return sum(p.numel() for p in self.parameters())

    def flops_per_token(self) -> int:
        """Operations that training takes for each token, forward and backward: 6 for each weight of a matrix that is
        multiplied (tables are only looked up), and 12 H D T a layer for scores and mixtures, future included (Chowdhery
        et al. 2022, appendix B)."""
        c = self.config
        weights = sum(m.weight.numel() for m in self.modules() if isinstance(m, nn.Linear))
        return 6 * weights + 12 * c.n_layer * c.n_head * c.head_width * c.block_size


class Undrawn(TorchFunctionMode):
    """Inside, torch.nn.init leaves tensors as they are: memory that nobody has touched yet costs nothing. (The meta
    device would do as well, but loads torch's compiler, which takes a second.)"""

    def __torch_function__(
        self, func: Callable, types: Iterable[type], args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        drawing = getattr(func, "__module__", None) == "torch.nn.init"  # what it returns no module uses
        return None if drawing else func(*args, **(kwargs or {}))


def next_token_loss(logits: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
    """Cross-entropy in nats of logits [B, T, V] against the tokens that really came, targets [B, T]; targets
    that are IGNORE do not count. Computed in float32 at least."""
    logits = logits.flatten(0, 1)
    logits = logits.float() if logits.dtype.itemsize < 4 else logits
    return F.cross_entropy(logits, targets.flatten(), ignore_index=IGNORE, reduction=reduction)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """The model in eval mode for the length of a `with` block; afterwards every part is as it was."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def scaled_normal_init(model: GPT) -> None:
    """Normal with deviation 0.02, biases zero; what writes to the residual stream is divided by sqrt(2 n_layer),
    so that the stream's variance does not grow with depth (Radford et al. 2019, section 2.3)."""
    for name, p in model.named_parameters():
        if p.dim() >= 2:
            shrink = math.sqrt(2 * model.config.n_layer) if name.endswith(WRITES_TO_STREAM) else 1.0
            nn.init.normal_(p, std=0.02 / shrink)
        elif name.endswith("bias"):
            nn.init.zeros_(p)


def zero_output_init(model: GPT) -> None:
    """GPT-2's, but what writes to the residual stream or the logits starts at zero: every block is the identity
    and the first loss is ln(vocab_size). A tied head is the embedding too, and keeps its values."""
    scaled_normal_init(model)
    for name, p in model.named_parameters():
        if name.endswith(WRITES_TO_STREAM) or name == "head.weight":
            nn.init.zeros_(p)


INITS = {"scaled_normal": scaled_normal_init, "zero_output": zero_output_init}
