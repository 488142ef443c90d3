"""Compute every step of one head for one query: from q, k and v to its effect on the next token.

    walkthrough = Walkthrough(checkpoint, ids, layer=1, head=2, query=7)
    walkthrough.pattern[3]  # the weight of token 3
    print(json.dumps(walkthrough.as_json()))

tables.py prints it.

Dimensions: T tokens, D head_dim, H heads, L layers, C = n_embd, V = vocab_size.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from headwise.checkpoint import Checkpoint
from headwise.errors import UserError, require
from headwise.inspection.effects import FrozenNorm, ResidualStream
from headwise.inspection.hooks import run_and_capture
from headwise.model.attention import attention_kind
from headwise.model.gpt import Block

TOP = 5  # tokens in a list of the most likely, the most raised, the most lowered


class Walkthrough:
    """The steps of head `head` in layer `layer` for the query at position `query` of a text. Attributes over keys have
    all T tokens, including the masked ones. Raise UserError if an index is out of range."""

    @torch.no_grad()
    def __init__(self, checkpoint: Checkpoint, ids: list[int], layer: int, head: int, query: int):
        model, config, text = checkpoint.model, checkpoint.model.config, torch.tensor([ids])
        require_index("--layer", layer, config.n_layer, "the model")
        require_index("--head", head, config.n_head, "a layer")
        require_index("--query", query, len(ids), "the text")
        maps, logits = run_and_capture(model, text)
        block, d, kv_head = model.blocks[layer], config.head_dim, head // (config.n_head // config.n_kv_head)
        assert isinstance(block, Block)
        qkv, rows = block.attention.qkv, slice(head * d, (head + 1) * d)
        parts = ResidualStream(model, text, slice(query, query + 1))
        heads, mlp = parts.heads[:, 0, :, 0], parts.mlp[:, 0, 0]  # [L, H, C] and [L, C]
        below = heads[:layer].sum((0, 1)) + parts.bias[:layer].sum(0) + mlp[:layer].sum(0)

        self.layer, self.head, self.query = layer, head, query
        self.label = checkpoint.tokenizer.label  # token id -> its text on one line
        self.tokens = [self.label(i) for i in ids]
        self.normalize = config.attention  # softmax, relu (max(score, 0) / number of visible keys), or a plugin's
        self.before = parts.embedding[0, 0] + below  # [C], the query's residual stream before the layer
        self.x = block.attention_norm(self.before)  # [C]
        self.w_q = qkv.weight[rows].float()  # [D, C]
        self.b_q = self.w_q.new_zeros(d) if qkv.bias is None else qkv.bias[rows].float()  # [D]
        self.projected = self.w_q @ self.x + self.b_q  # [D]
        self.projected_then = ["normalized"] * config.qk_norm + ["rotated by position"] * (config.position == "rotary")
        self.q = maps[layer].q[0, head, query]  # [D]
        self.k, self.v = maps[layer].k[0, kv_head], maps[layer].v[0, kv_head]  # [T, D]
        self.scores = self.k @ self.q  # [T]
        self.scaled_scores = self.scores / math.sqrt(d)
        bias = maps[layer].bias
        self.position_bias = None if bias is None else bias[head, query]  # [T], added to the scaled scores
        biased = self.scaled_scores if bias is None else self.scaled_scores + bias[head, query]
        self.masked_scores = biased.masked_fill(torch.arange(len(ids)) > query, -math.inf)
        weights = attention_kind(config.attention).normalize(self.masked_scores)
        self.pattern = weights.masked_fill(torch.arange(len(ids)) > query, 0.0)  # [T]
        self.weighted_values = self.pattern[:, None] * self.v  # [T, D]
        self.z = self.pattern @ self.v  # [D]
        self.w_o = maps[layer].w_o[head]  # [D, C]
        self.results = heads[layer]  # [H, C], what each head of the layer adds to the residual stream, z W_O
        self.result = heads[layer, head]  # [C]
        self.bias = parts.bias[layer]  # [C], W_O's
        self.after = self.before + self.results.sum(0) + self.bias  # [C]
        self.logits = logits[0, query]  # [V], the model's, of the next token
        self.next_token = ids[query + 1] if query + 1 < len(ids) else None  # the text's

        self.pattern_error = float((self.pattern - maps[layer].pattern[0, head, query]).abs().max())
        self.left_out = ""  # why the effect on the logits is left out
        self.logit_changes, self.logits_error = torch.zeros(0), 0.0
        try:
            norm = FrozenNorm(model, parts.total())
        except UserError as error:
            self.left_out = str(error)
            return
        head_logits = norm.logits(heads)  # [L, H, V]
        rest = norm.logits(parts.embedding[0] + parts.bias.sum(0) + mlp.sum(0))[0, 0]
        self.logit_changes = head_logits[layer, head] - head_logits[layer, head].mean()  # [V], of the result
        logits_of_parts = head_logits.sum((0, 1)) + rest + norm.bias @ norm.unembedding.T
        self.logits_error = float((logits_of_parts - self.logits).abs().max())

    def likeliest(self) -> dict[str, float]:
        """Return the most likely next tokens and their probabilities."""
        return self._top(self.logits.softmax(-1))

    def raised(self) -> dict[str, float]:
        """Return the tokens whose logits the head raises most, with the changes of the logits."""
        return self._top(self.logit_changes)

    def lowered(self) -> dict[str, float]:
        """Return the tokens whose logits the head lowers most, with the changes of the logits."""
        return {token: -x for token, x in self._top(-self.logit_changes).items()}

    def _top(self, values: Tensor) -> dict[str, float]:
        """Return the tokens with the greatest values [V], and these values."""
        top = values.topk(min(TOP, len(values)))
        return {self.label(i): x for x, i in zip(top.values.tolist(), top.indices.tolist(), strict=True)}

    def as_json(self) -> dict[str, Any]:
        """Return every attribute in full, for json.dumps; minus infinity is None."""
        fields = {name: x.tolist() if isinstance(x, Tensor) else x for name, x in vars(self).items() if name != "label"}
        fields["masked_scores"] = [None if x == -math.inf else x for x in fields["masked_scores"]]
        fields["next_token"] = None if self.next_token is None else self.label(self.next_token)
        return fields | {"likeliest": self.likeliest(), "raised": self.raised(), "lowered": self.lowered()}


def require_index(flag: str, index: int, count: int, owner: str) -> None:
    """Raise UserError unless 0 <= index < count."""
    require(0 <= index < count, f"{flag} {index} must be from 0 to {count - 1}: {owner} has {count}")
