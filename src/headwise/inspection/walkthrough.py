"""One head for one query, number by number: from q, k and v to its effect on the next prediction.

    walkthrough = walk_through(checkpoint, ids, layer=1, head=2, query=7)
    walkthrough.pattern[3]  # the weight of token 3
    print(json.dumps(walkthrough.as_json()))

tables.py prints them.

Dimensions: T tokens, D head_dim, H heads, L layers, C = n_embd, V = vocab_size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from headwise.checkpoint import Checkpoint
from headwise.errors import require
from headwise.inspection.effects import FrozenNorm, residual_stream
from headwise.inspection.hooks import run_and_capture
from headwise.model.gpt import Block

TOP = 5  # tokens in a list of the likeliest, the most raised, the most lowered


@dataclass
class Walkthrough:
    """What one head computes for one query. Rows over keys have all T tokens, the masked ones too."""

    layer: int
    head: int
    query: int
    tokens: list[str]  # T, as they are shown
    normalize: str  # softmax, or relu: max(score, 0) / number of visible keys
    x: Tensor  # [C], the query's residual stream after the layer's norm
    w_q: Tensor  # [D, C]
    b_q: Tensor  # [D], zeros in a model without biases
    projected: Tensor  # [D], w_q x + b_q
    projected_then: list[str]  # what makes q of it: "normed", "rotated by its position"
    q: Tensor  # [D]
    k: Tensor  # [T, D]
    v: Tensor  # [T, D]
    scores: Tensor  # [T], q.k
    scaled_scores: Tensor  # [T], q.k / sqrt(D)
    masked_scores: Tensor  # [T], minus infinity for later keys
    pattern: Tensor  # [T], the weights
    weighted_values: Tensor  # [T, D], weight times v
    z: Tensor  # [D], their sum
    w_o: Tensor  # [D, C], the head's slice of W_O
    before: Tensor  # [C], the query's residual stream before the layer
    results: Tensor  # [H, C], what each head of the layer adds to it, z W_O
    bias: Tensor  # [C], W_O's bias
    after: Tensor  # [C], the sum of before, results and bias
    logits: Tensor  # [V], the model's logits of the next token
    logit_changes: Tensor  # [V], the head's result through the frozen final norm, minus the mean over V
    next_token: int | None  # of the text, if it has one
    pattern_error: float  # greatest difference of these weights from the model's
    logits_error: float  # greatest difference of the sum of all parts' logits from the model's
    label: Callable[[int], str]  # token id -> how it is shown

    @property
    def result(self) -> Tensor:
        """Return what the head adds to the residual stream, [C]."""
        return self.results[self.head]

    def likeliest(self) -> dict[str, float]:
        """Return the likeliest next tokens and their probabilities."""
        return self.top(self.logits.softmax(-1))

    def raised(self) -> dict[str, float]:
        """Return the tokens whose logits the head raises most, with the changes."""
        return self.top(self.logit_changes)

    def lowered(self) -> dict[str, float]:
        """Return the tokens whose logits the head lowers most, with the changes."""
        return {token: -x for token, x in self.top(-self.logit_changes).items()}

    def top(self, values: Tensor) -> dict[str, float]:
        """Return the tokens of the greatest of the values [V]."""
        top = values.topk(min(TOP, len(values)))
        return {self.label(i): x for x, i in zip(top.values.tolist(), top.indices.tolist(), strict=True)}

    def as_json(self) -> dict[str, Any]:
        """Return every number in full; minus infinity is None."""
        fields = {name: x.tolist() if isinstance(x, Tensor) else x for name, x in vars(self).items() if name != "label"}
        fields["masked_scores"] = [None if x == -math.inf else x for x in fields["masked_scores"]]
        fields["next_token"] = None if self.next_token is None else self.label(self.next_token)
        lists = {"likeliest": self.likeliest(), "raised": self.raised(), "lowered": self.lowered()}
        return fields | {"result": self.result.tolist()} | lists


@torch.no_grad()
def walk_through(checkpoint: Checkpoint, ids: list[int], layer: int, head: int, query: int) -> Walkthrough:
    """Return what head `head` of layer `layer` computes for token number `query` of the text. Raise UserError if one of
    them is out of range."""
    model, tokenizer, config = checkpoint.model, checkpoint.tokenizer, checkpoint.model.config
    for flag, number, count, owner in (
        ("--layer", layer, config.n_layer, "the model"),
        ("--head", head, config.n_head, "a layer"),
        ("--query", query, len(ids), "the text"),
    ):
        require(0 <= number < count, f"{flag} {number} must be from 0 to {count - 1}: {owner} has {count}")
    text = torch.tensor([ids])
    maps, logits = run_and_capture(model, text)
    block, group, d = model.blocks[layer], config.n_head // config.kv_heads, config.head_width
    assert isinstance(block, Block)
    rows, bias = slice(head * d, (head + 1) * d), block.attention.qkv.bias
    w_q = block.attention.qkv.weight[rows].float()
    b_q = w_q.new_zeros(d) if bias is None else bias[rows].float()
    q, k, v = maps[layer].q[0, head, query], maps[layer].k[0, head // group], maps[layer].v[0, head // group]
    scaled_scores = k @ q / math.sqrt(d)
    masked_scores = scaled_scores.masked_fill(torch.arange(len(ids)) > query, -math.inf)
    pattern = masked_scores.relu() / (query + 1) if config.attention == "relu" else masked_scores.softmax(-1)

    parts = residual_stream(model, text, slice(query, query + 1))
    heads, mlp = parts.heads[:, 0, :, 0], parts.mlp[:, 0, 0]  # [L, H, C] and [L, C]
    before = parts.embedding[0, 0] + heads[:layer].sum((0, 1)) + parts.bias[:layer].sum(0) + mlp[:layer].sum(0)
    x, norm = block.attention_norm(before), FrozenNorm(model, parts.total())
    others = parts.embedding[0] + parts.bias.sum(0) + mlp.sum(0)  # [1, C]
    head_logits = norm.logits(heads)  # [L, H, V]
    summed = head_logits.sum((0, 1)) + norm.logits(others)[0, 0] + norm.bias @ norm.unembedding.T
    return Walkthrough(
        layer=layer,
        head=head,
        query=query,
        tokens=[tokenizer.label(i) for i in ids],
        normalize=config.attention,
        x=x,
        w_q=w_q,
        b_q=b_q,
        projected=w_q @ x + b_q,
        projected_then=["normed"] * config.qk_norm + ["rotated by position"] * (config.position == "rotary"),
        q=q,
        k=k,
        v=v,
        scores=k @ q,
        scaled_scores=scaled_scores,
        masked_scores=masked_scores,
        pattern=pattern,
        weighted_values=pattern[:, None] * v,
        z=pattern @ v,
        w_o=maps[layer].w_o[head],
        before=before,
        results=heads[layer],
        bias=parts.bias[layer],
        after=before + heads[layer].sum(0) + parts.bias[layer],
        logits=logits[0, query],
        logit_changes=head_logits[layer, head] - head_logits[layer, head].mean(),
        next_token=ids[query + 1] if query + 1 < len(ids) else None,
        pattern_error=float((pattern - maps[layer].pattern[0, head, query]).abs().max()),
        logits_error=float((summed - logits[0, query]).abs().max()),
        label=tokenizer.label,
    )
