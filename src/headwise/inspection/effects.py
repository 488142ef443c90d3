"""What each head does to the model's predictions, as numbers [n_layer, n_head]; these need the model, not only maps.

Each takes token ids [B, T + 1], of which the first T are read and the last T are what should have been predicted; the
model comes back as it was.

Dimensions: B batch, T tokens, L = n_layer, H heads, D head width, C = n_embd, V = vocab_size.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn

from headwise.console import say
from headwise.inspection.hooks import capture, edited
from headwise.model.gpt import GPT, Block, eval_mode, next_token_loss


def ov_copying(model: GPT, ids: Tensor) -> Tensor:
    """Whether what a head reads from a token makes that token likelier: Re(sum of eigenvalues) / sum of their absolute
    values, of the circuit W_E W_V W_O W_U from token to logits (Elhage et al. 2021), between -1 and 1; 0 where the
    circuit does nothing. What the norms do to every input alike (their scales, and LayerNorm's taking away of the mean)
    counts as part of the matrices beside them, and raising all logits alike as nothing. `ids` are not used."""
    embedding, unembedding = (matrix.detach().cpu().float() for matrix in (model.embedding.weight, model.head.weight))
    unembedding = unembedding * norm_scale(model.norm)  # W_U [V, C]
    if isinstance(model.norm, nn.LayerNorm):
        embedding, unembedding = (matrix - matrix.mean(1, keepdim=True) for matrix in (embedding, unembedding))
    through = embedding.T @ (unembedding - unembedding.mean(0))  # [C, C]: W_E W_U, summed over tokens
    scores = []
    for block in model.blocks:
        assert isinstance(block, Block)
        part = block.attention
        w_v = part.qkv.weight.split(part.sizes)[2].detach().cpu().float() * norm_scale(block.attention_norm)
        w_v = w_v.unflatten(0, (part.n_kv_head, -1))  # [G, D, C]
        w_v = w_v.repeat_interleave(part.n_head // part.n_kv_head, dim=0)  # [H, D, C]
        w_o = part.out.weight.detach().cpu().float().unflatten(1, (part.n_head, -1)).transpose(0, 1)  # [H, C, D]
        # The circuit is V x V of rank D; its eigenvalues other than 0 are those of the same factors in another order.
        values = torch.linalg.eigvals(w_v @ through @ w_o)  # [H, D]
        scores.append(values.sum(-1).real / values.abs().sum(-1).clamp(min=torch.finfo(torch.float32).tiny))
    return torch.stack(scores)


def norm_scale(norm: nn.Module) -> Tensor:
    """The learned factors [C] of a layer norm or RMS norm, on the CPU in float32."""
    assert isinstance(norm.weight, Tensor)
    return norm.weight.detach().cpu().float()


def importance(model: GPT, ids: Tensor) -> Tensor:
    """How much the loss hangs on a head: mean over sequences of |z . dLoss/dz|, the first-order estimate of what taking
    its z away would change (Michel et al. 2019, eq. 1). One backward pass."""
    kept: dict[int, Tensor] = {}

    def keep(layer: int, z: Tensor) -> Tensor:
        kept[layer] = z
        return z

    with torch.enable_grad(), eval_mode(model), edited(model, keep):
        loss = next_token_loss(model(ids[:, :-1]), ids[:, 1:]) * len(ids)  # each sequence's own mean, summed
        gradients = torch.autograd.grad(loss, [kept[layer] for layer in sorted(kept)])
    change = [(kept[layer] * gradient).sum((-2, -1)) for layer, gradient in enumerate(gradients)]  # [B, H] each
    return torch.stack(change).abs().mean(1).detach().float()


@torch.no_grad()
def mean_ablation(model: GPT, ids: Tensor) -> Tensor:
    """How much worse the loss is, in nats per token, with the head's z replaced by its mean over all tokens: the head
    says the same whatever it reads. One forward pass for each head, which is told where it takes long."""

    def loss(edit: Callable[[int, Tensor], Tensor]) -> Tensor:
        with edited(model, edit):
            return next_token_loss(model(ids[:, :-1]), ids[:, 1:]).float()

    worse = torch.zeros(model.config.n_layer, model.config.n_head)
    with eval_mode(model):
        whole, told = loss(lambda layer, z: z), time.monotonic()
        for at, head in product(range(model.config.n_layer), range(model.config.n_head)):
            if time.monotonic() - told > 2:
                say(f"mean ablation: head {at}.{head} of {model.config.n_layer} layers of {model.config.n_head}")
                told = time.monotonic()

            def mean_of_head(layer: int, z: Tensor, at: int = at, head: int = head) -> Tensor:
                if layer == at:
                    z = z.clone()
                    z[:, head] = z[:, head].mean((0, 1))
                return z

            worse[at, head] = loss(mean_of_head) - whole
    return worse


@dataclass
class Stream:
    """The residual stream after the last block as the sum of what was written to it; float32."""

    embedding: Tensor  # [B, T, C], with its position
    heads: Tensor  # [L, B, H, T, C], each head's own update
    bias: Tensor  # [L, C], W_O's bias
    mlp: Tensor  # [L, B, T, C]

    def total(self) -> Tensor:
        """[B, T, C]: E' = E + dE_1 + ... over all heads and layers, and the feed-forward networks."""
        return self.embedding + self.heads.sum((0, 2)) + self.bias.sum(0) + self.mlp.sum(0)


@torch.no_grad()
def stream(model: GPT, ids: Tensor, at: slice = slice(None)) -> Stream:
    """What every part of the model writes when it reads ids [B, T], to the tokens `at` these places (all of them)."""
    positions = torch.arange(ids.size(1), device=ids.device)
    heads: list[Tensor] = []
    biases: list[Tensor] = []
    mlps: list[Tensor] = []
    with eval_mode(model), capture(model) as maps:
        x = embedding = model.position.embed(model.embedding(ids), positions)
        angles = model.position.angles(positions)
        for layer, block in enumerate(model.blocks):
            assert isinstance(block, Block)
            x = x + block.attention(block.attention_norm(x), model.position, angles)
            written = block.mlp(block.mlp_norm(x))
            x = x + written
            bias = block.attention.out.bias
            heads.append(maps[layer].z[:, :, at] @ maps[layer].w_o)
            biases.append(torch.zeros_like(x[0, 0]) if bias is None else bias)
            mlps.append(written[:, at])
    return Stream(embedding[:, at].float(), torch.stack(heads), torch.stack(biases).float(), torch.stack(mlps).float())


class FrozenNorm:
    """The final norm as it is at one point, the stream's total [B, T, C]: a linear map, so that it can be taken of each
    part, and the parts' logits add up to the model's."""

    def __init__(self, model: GPT, total: Tensor):
        norm = model.norm
        assert isinstance(norm, nn.LayerNorm | nn.RMSNorm)
        self.centred = isinstance(norm, nn.LayerNorm)
        spread = total - total.mean(-1, keepdim=True) if self.centred else total
        self.scale = (spread.square().mean(-1, keepdim=True) + (norm.eps or 0.0)).rsqrt()  # [B, T, 1]
        self.weight = norm_scale(norm).to(total.device)
        bias = getattr(norm, "bias", None)
        self.bias = torch.zeros_like(self.weight) if bias is None else bias.detach().float()  # belongs to no part
        self.unembedding = model.head.weight.detach().float()  # W_U [V, C]

    def __call__(self, part: Tensor, transposed: bool = False) -> Tensor:
        """A part of the stream [..., B, T, C] after the norm; transposed, a direction after it as one before."""
        if transposed:
            part = part * self.scale * self.weight
        part = part - part.mean(-1, keepdim=True) if self.centred else part
        return part if transposed else part * self.scale * self.weight

    def logits(self, part: Tensor) -> Tensor:
        """What a part [..., B, T, C] adds to the logits [..., B, T, V]."""
        return self(part) @ self.unembedding.T


@torch.no_grad()
def logit_attribution(model: GPT, ids: Tensor) -> Tensor:
    """What a head adds by itself, through the frozen final norm and the unembedding, to the logit of the token that
    came next, above its mean over the vocabulary; mean over tokens."""
    end: list[Tensor] = []
    hook = model.norm.register_forward_pre_hook(lambda _, inputs: end.append(inputs[0]))
    try:
        with eval_mode(model), capture(model) as maps:
            model(ids[:, :-1])
    finally:
        hook.remove()
    through = FrozenNorm(model, end[0].float())
    wanted = through.unembedding[ids[:, 1:]] - through.unembedding.mean(0)  # [B, T, C]
    back = through(wanted, transposed=True).unsqueeze(1)  # the direction in the stream that counts, [B, 1, T, C]
    scores = []
    for layer in sorted(maps):
        along = back @ maps[layer].w_o.mT  # the same as each head sees it, [B, H, T, D]
        scores.append((maps[layer].z * along).sum(-1).mean((0, 2)))
    return torch.stack(scores)


@torch.no_grad()
def repeat_losses(logits: Tensor, ids: Tensor, period: Tensor) -> tuple[float, float]:
    """Mean loss of logits [B, T, V] on tokens the first time and again, where sequence b of ids [B, T] repeats itself
    after period[b] tokens. Their difference is what the model makes of the repetition (Olsson et al. 2022)."""
    losses = next_token_loss(logits[:, :-1], ids[:, 1:], reduction="none").view(len(ids), -1)
    again = torch.arange(1, ids.size(1), device=ids.device) > period[:, None]  # that it starts over cannot be known
    return float(losses[~again].mean()), float(losses[again].mean())


EFFECTS: dict[str, Callable[[GPT, Tensor], Tensor]] = {
    "ov_copying": ov_copying,
    "importance": importance,
    "mean_ablation": mean_ablation,
    "logit_attribution": logit_attribution,
}
