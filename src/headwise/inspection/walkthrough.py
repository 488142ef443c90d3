"""One head for one query, number by number: from q, k and v to what it does to the next prediction.

    walk = walk_through(checkpoint, ids, layer=1, head=2, query=7)
    walk.weights[3]                   # how much token 7 takes from token 3
    print(json.dumps(walk.as_json()))

The numbers are the model's own, as it computes them; tables.py prints them.

Dimensions: T tokens, D head width, H heads, L layers, C = n_embd, V = vocab_size.
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
from headwise.inspection.effects import FrozenNorm, stream
from headwise.inspection.recorder import see
from headwise.model.gpt import Block

TOP = 5  # tokens listed of each kind


@dataclass
class Walk:
    """All that one head does for one query. What stands in a row for the keys has all T tokens, the later ones too,
    which the mask takes away."""

    layer: int
    head: int
    query: int
    tokens: list[str]  # as they are shown
    normalize: str  # softmax, or relu: max(score, 0) / number of visible keys
    x: Tensor  # [C], the query's stream as the layer reads it: `before`, normed
    w_q: Tensor  # [D, C], what it is multiplied with, and b_q [D] added (0 where the model has no biases)
    b_q: Tensor
    projected: Tensor  # [D], x W_Q + b_q
    then: list[str]  # what the model does to queries and keys before they meet: "normed", "turned by their positions"
    q: Tensor  # [D], the query as it meets the keys
    k: Tensor  # [T, D]
    v: Tensor  # [T, D]
    scores: Tensor  # [T], q.k
    scaled: Tensor  # [T], divided by sqrt(D)
    masked: Tensor  # [T], later ones at minus infinity
    weights: Tensor  # [T], of the softmax
    taken: Tensor  # [T, D], weight times v
    z: Tensor  # [D], their sum
    w_o: Tensor  # [D, C], the head's slice of W_O
    before: Tensor  # [C], the query's stream where the layer begins: embedding, position and all updates so far
    updates: Tensor  # [H, C], what each head of the layer adds to it; this head's is z times its slice of W_O
    bias: Tensor  # [C], W_O's own
    after: Tensor  # [C], the stream with all of them added
    logits: Tensor  # [V], the model's, of the token after the query
    gains: Tensor  # [V], what this head's update adds to them through the frozen final norm, less the mean over V
    came: int | None  # the token that came next in the text, if there is one
    weights_off: float  # greatest difference of these weights from the model's own
    logits_off: float  # greatest difference of all parts' logits, added up, from the model's own
    label: Callable[[int], str]  # a token of the vocabulary as it is shown

    @property
    def update(self) -> Tensor:
        """[C], what this head adds to the stream."""
        return self.updates[self.head]

    def predictions(self) -> dict[str, float]:
        """The likeliest next tokens and their probabilities."""
        return self.named(self.logits.softmax(-1))

    def raised(self) -> dict[str, float]:
        """The tokens whose logits the head raises most."""
        return self.named(self.gains)

    def lowered(self) -> dict[str, float]:
        """The tokens whose logits it lowers most."""
        return {token: -x for token, x in self.named(-self.gains).items()}

    def named(self, values: Tensor) -> dict[str, float]:
        """The greatest of the vocabulary's values [V]."""
        found = values.topk(min(TOP, len(values)))
        return {self.label(i): x for x, i in zip(found.values.tolist(), found.indices.tolist(), strict=True)}

    def as_json(self) -> dict[str, Any]:
        """Every number in full; minus infinity is null."""
        told = {name: value for name, value in vars(self).items() if not isinstance(value, Tensor) and name != "label"}
        numbers = {name: value.tolist() for name, value in vars(self).items() if isinstance(value, Tensor)}
        numbers["masked"] = [None if x == -math.inf else x for x in numbers["masked"]]
        told["came"] = None if self.came is None else self.label(self.came)
        lists = {"predictions": self.predictions(), "raised": self.raised(), "lowered": self.lowered()}
        return told | {"update": self.update.tolist()} | numbers | lists


def place(n: int, count: int, flag: str, what: str) -> int:
    """n if there are so many. Raises UserError with what would be right."""
    require(0 <= n < count, f"{flag} {n} must be from 0 to {count - 1}: {what} has {count}")
    return n


@torch.no_grad()
def walk_through(checkpoint: Checkpoint, ids: list[int], layer: int, head: int, query: int) -> Walk:
    """What head `head` of layer `layer` does for token number `query` of the text. Raises UserError for places there
    are not."""
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    place(layer, model.config.n_layer, "--layer", "the model")
    place(head, model.config.n_head, "--head", "a layer")
    place(query, len(ids), "--query", "the text")
    text = torch.tensor([ids])
    maps, logits = see(model, text)
    seen, group = maps[layer], model.config.n_head // model.config.kv_heads
    block = model.blocks[layer]
    assert isinstance(block, Block)
    part, width = block.attention, model.config.head_width
    w_q = part.qkv.weight[head * width : (head + 1) * width].float()
    b_q = w_q.new_zeros(width) if part.qkv.bias is None else part.qkv.bias[head * width : (head + 1) * width].float()
    q, k, v = seen.q[0, head, query], seen.k[0, head // group], seen.v[0, head // group]
    scores = k @ q
    scaled = scores / math.sqrt(len(q))
    masked = scaled.masked_fill(torch.arange(len(ids)) > query, -math.inf)
    weights = masked.relu() / (query + 1) if model.config.attention == "relu" else masked.softmax(-1)

    parts = stream(model, text, slice(query, query + 1))
    heads, mlp = parts.heads[:, 0, :, 0], parts.mlp[:, 0, 0]  # [L, H, C] and [L, C]
    before = parts.embedding[0, 0] + heads[:layer].sum((0, 1)) + parts.bias[:layer].sum(0) + mlp[:layer].sum(0)
    x = block.attention_norm(before)
    through = FrozenNorm(model, parts.total())
    rest = parts.embedding[0] + parts.bias.sum(0) + mlp.sum(0)  # [1, C]
    of_heads = through.logits(heads)  # [L, H, V]
    summed = of_heads.sum((0, 1)) + through.logits(rest)[0, 0] + through.bias @ through.unembedding.T
    gains = of_heads[layer, head]
    return Walk(
        layer=layer,
        head=head,
        query=query,
        tokens=[tokenizer.label(i) for i in ids],
        normalize=model.config.attention,
        x=x,
        w_q=w_q,
        b_q=b_q,
        projected=w_q @ x + b_q,
        then=["normed"] * model.config.qk_norm + ["turned by their positions"] * (model.config.position == "rotary"),
        q=q,
        k=k,
        v=v,
        scores=scores,
        scaled=scaled,
        masked=masked,
        weights=weights,
        taken=weights[:, None] * v,
        z=weights @ v,
        w_o=seen.w_o[head],
        before=before,
        updates=heads[layer],
        bias=parts.bias[layer],
        after=before + heads[layer].sum(0) + parts.bias[layer],
        logits=logits[0, query],
        gains=gains - gains.mean(),
        came=ids[query + 1] if query + 1 < len(ids) else None,
        weights_off=float((weights - seen.pattern[0, head, query]).abs().max()),
        logits_off=float((summed - logits[0, query]).abs().max()),
        label=tokenizer.label,
    )
