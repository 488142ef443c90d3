"""Measure how each head affects the predictions: head metrics that need the model, not only its patterns.

A metric takes the model and token ids [B, T + 1], of which the first T are the input and the last T the targets, and
returns scores [L, H]. The model does not change. To add a metric, write a function and add a line to EFFECTS.

Dimensions: B batch, T tokens, L = n_layer, H heads, G key/value heads, D head_dim, C = n_embd, V = vocab_size.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product

import torch
from torch import Tensor, nn

from headwise.console import Progress
from headwise.errors import UserError
from headwise.inspection.hooks import capture, edit_heads
from headwise.model.gpt import GPT, Block, eval_mode, next_token_loss, uncompiled


def ov_copying(model: GPT, ids: Tensor) -> Tensor:
    """Return how much attending to a token raises the logit of that token: Re(sum of eigenvalues) / sum of their
    absolute values, for the circuit W_E W_V W_O W_U from token to logits (Elhage et al. 2021). From -1 to 1; 0 if the
    circuit is zero. The norms' scales, and LayerNorm's subtraction of the mean, are multiplied into the neighbouring
    matrices; a change that is the same for all logits does not count. `ids` are not used."""
    embedding, unembedding = (matrix.detach().cpu().float() for matrix in (model.embedding.weight, model.head.weight))
    unembedding = unembedding * norm_scale(model.norm)  # W_U [V, C]
    if isinstance(model.norm, nn.LayerNorm):
        embedding, unembedding = (matrix - matrix.mean(1, keepdim=True) for matrix in (embedding, unembedding))
    through = embedding.T @ (unembedding - unembedding.mean(0))  # [C, C]: W_E W_U, summed over tokens
    scores = []
    for block in model.blocks:
        assert isinstance(block, Block)
        attention = block.attention
        w_v = attention.qkv.weight.split(attention.widths)[2].detach().cpu().float() * norm_scale(block.attention_norm)
        w_v = w_v.unflatten(0, (attention.n_kv_head, -1))  # [G, D, C]
        w_v = w_v.repeat_interleave(attention.n_head // attention.n_kv_head, dim=0)  # [H, D, C]
        w_o = attention.out.weight.detach().cpu().float().unflatten(1, (attention.n_head, -1)).transpose(0, 1)
        # The circuit is [V, V] of rank D; its nonzero eigenvalues are those of the same factors in another order.
        values = torch.linalg.eigvals(w_v @ through @ w_o)  # [H, D, C] [C, C] [H, C, D] -> [H, D]
        scores.append(values.sum(-1).real / values.abs().sum(-1).clamp(min=torch.finfo(torch.float32).tiny))
    return torch.stack(scores)


def norm_scale(norm: nn.Module) -> Tensor:
    """Return the learned scale [C] of a LayerNorm or RMSNorm, on the CPU in float32. Raise UserError for other norms,
    for which what follows from the scale is not defined."""
    if not isinstance(norm, nn.LayerNorm | nn.RMSNorm) or norm.weight is None:
        raise UserError(f"a norm of the class {type(norm).__name__} has no scale that could be applied to a part alone")
    return norm.weight.detach().cpu().float()


def importance(model: GPT, ids: Tensor) -> Tensor:
    """Return the mean over sequences of |z . dLoss/dz|, a first-order estimate of how much the loss changes if the head
    is removed (Michel et al. 2019, eq. 1). One backward pass."""
    recorded: dict[int, Tensor] = {}

    def record(layer: int, z: Tensor) -> Tensor:
        recorded[layer] = z
        return z

    with torch.enable_grad(), eval_mode(model), edit_heads(model, record):
        loss = next_token_loss(model(ids[:, :-1]), ids[:, 1:]) * len(ids)  # the sum of the sequences' means
        gradients = torch.autograd.grad(loss, [recorded[layer] for layer in sorted(recorded)])
    change = [(recorded[layer] * gradient).sum((-2, -1)) for layer, gradient in enumerate(gradients)]  # [B, H] each
    return torch.stack(change).abs().mean(1).detach().float()


@torch.no_grad()
def mean_ablation(model: GPT, ids: Tensor) -> Tensor:
    """Return the increase of the loss, in nats per token, if the head's z is replaced by its mean over all tokens of
    the batch. One forward pass for each head; progress is printed to standard error."""

    def replace_by_mean(ablated: tuple[int, int], layer: int, z: Tensor) -> Tensor:
        if layer == ablated[0]:
            z = z.clone()
            z[:, ablated[1]] = z[:, ablated[1]].mean((0, 1))
        return z

    increase = torch.zeros(model.config.n_layer, model.config.n_head)
    progress = Progress("of mean ablation", "heads", increase.numel())
    with eval_mode(model), uncompiled():
        loss = next_token_loss(model(ids[:, :-1]), ids[:, 1:]).float()
        for layer, head in product(*map(range, increase.shape)):
            with edit_heads(model, partial(replace_by_mean, (layer, head))):
                increase[layer, head] = next_token_loss(model(ids[:, :-1]), ids[:, 1:]).float() - loss
            progress(1)
    return increase


class ResidualStream:
    """What each part of the model adds to the residual stream of ids [B, T] at the given positions, in float32. The sum
    of all parts is the residual stream after the last block."""

    @torch.no_grad()
    def __init__(self, model: GPT, ids: Tensor, positions: slice = slice(None)):
        all_positions = torch.arange(ids.size(1), device=ids.device)
        heads, biases, mlps = list[Tensor](), list[Tensor](), list[Tensor]()
        with eval_mode(model), capture(model) as maps:
            x = embedding = model.position.embed(model.embedding(ids), all_positions)
            angles = model.position.angles(all_positions)
            position_bias = model.position.bias(all_positions, all_positions)
            for layer, block in enumerate(model.blocks):
                assert isinstance(block, Block)
                x = x + block.attention(block.attention_norm(x), model.position, angles, bias=position_bias)
                mlp, bias = block.mlp(block.mlp_norm(x)), block.attention.out.bias
                x = x + mlp
                heads.append(maps[layer].z[:, :, positions] @ maps[layer].w_o)
                biases.append(torch.zeros_like(x[0, 0]) if bias is None else bias)
                mlps.append(mlp[:, positions])
        self.embedding = embedding[:, positions].float()  # [B, T, C], including the position's
        self.heads = torch.stack(heads)  # [L, B, H, T, C], each head's result
        self.bias = torch.stack(biases).float()  # [L, C], W_O's
        self.mlp = torch.stack(mlps).float()  # [L, B, T, C]

    def total(self) -> Tensor:
        """Return the sum of all parts [B, T, C], which is the input of the final norm."""
        return self.embedding + self.heads.sum((0, 2)) + self.bias.sum(0) + self.mlp.sum(0)


class FrozenNorm:
    """The final norm with its statistics fixed to those of one residual stream, total [B, T, C]. It is then linear: the
    norm can be applied to each part of the stream, and the logits of all parts sum to those of the model."""

    def __init__(self, model: GPT, total: Tensor):
        norm = model.norm
        self.weight = norm_scale(norm).to(total.device)
        self.subtracts_mean = isinstance(norm, nn.LayerNorm)
        centered = total - total.mean(-1, keepdim=True) if self.subtracts_mean else total
        eps = getattr(norm, "eps", None) or 0.0
        self.scale = (centered.square().mean(-1, keepdim=True) + eps).rsqrt()  # [B, T, 1]
        bias = getattr(norm, "bias", None)
        self.bias = torch.zeros_like(self.weight) if bias is None else bias.detach().float()  # belongs to no part
        self.unembedding = model.head.weight.detach().float()  # W_U [V, C]

    def __call__(self, part: Tensor, transposed: bool = False) -> Tensor:
        """Return a part of the stream [..., B, T, C] after the norm. `transposed` applies the transposed matrix, which
        turns a direction after the norm into the corresponding direction before it."""
        if transposed:
            part = part * self.scale * self.weight
        part = part - part.mean(-1, keepdim=True) if self.subtracts_mean else part
        return part if transposed else part * self.scale * self.weight

    def logits(self, part: Tensor) -> Tensor:
        """Return what a part [..., B, T, C] adds to the logits, [..., B, T, V]."""
        return self(part) @ self.unembedding.T


@torch.no_grad()
def logit_attribution(model: GPT, ids: Tensor) -> Tensor:
    """Return the mean over tokens of what a head adds to the logit of the next token, above what it adds to the mean
    logit of the vocabulary, through the frozen final norm and the unembedding."""
    total: list[Tensor] = []
    hook = model.norm.register_forward_pre_hook(lambda _, inputs: total.append(inputs[0]))
    try:
        with eval_mode(model), capture(model) as maps:
            model(ids[:, :-1])
    finally:
        hook.remove()
    norm = FrozenNorm(model, total[0].float())
    target = norm.unembedding[ids[:, 1:]] - norm.unembedding.mean(0)  # [B, T, C], after the norm
    target = norm(target, transposed=True).unsqueeze(1)  # [B, 1, T, C], in the residual stream
    scores = []
    for layer in sorted(maps):
        direction = target @ maps[layer].w_o.mT  # [B, H, T, D], as each head's z has it
        scores.append((maps[layer].z * direction).sum(-1).mean((0, 2)))
    return torch.stack(scores)


@torch.no_grad()
def repeat_losses(logits: Tensor, ids: Tensor, period: Tensor) -> tuple[float, float]:
    """Return the mean loss of logits [B, T, V] on the first occurrences of tokens and on the repeated tokens, where
    sequence b of ids [B, T] repeats after period[b] tokens. The second minus the first is the induction loss (Olsson et
    al. 2022)."""
    losses = next_token_loss(logits[:, :-1], ids[:, 1:], reduction="none").view(len(ids), -1)
    repeated = torch.arange(1, ids.size(1), device=ids.device) > period[:, None]  # the repeat's first token is random
    return float(losses[~repeated].mean()), float(losses[repeated].mean())


EFFECTS: dict[str, Callable[[GPT, Tensor], Tensor]] = {
    "ov_copying": ov_copying,
    "importance": importance,
    "mean_ablation": mean_ablation,
    "logit_attribution": logit_attribution,
}
