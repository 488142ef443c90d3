"""Text from a model, token by token, as a few small functions.

ids = generate(model, tokenizer.encode("def "), 100, temperature=0.8, top_k=50, seed=1)
for text in tokenizer.stream(ids):
    print(text, end="")
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from headwise.errors import require
from headwise.model.gpt import GPT


def keep_top_k(logits: Tensor, top_k: int | None) -> Tensor:
    """Logits [V] with all but the `top_k` largest at minus infinity; None keeps all."""
    if top_k is None or top_k >= logits.numel():
        return logits
    best = logits.topk(top_k)
    return torch.full_like(logits, -math.inf).scatter(0, best.indices, best.values)


def sample(logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator) -> int:
    """One token id drawn from softmax(logits / temperature) over the top_k; the likeliest at temperature 0."""
    if temperature == 0:
        return int(logits.argmax())
    logits = logits.float() - logits.max()  # so that a tiny temperature gives -inf, never inf
    probabilities = keep_top_k(logits / temperature, top_k).softmax(dim=-1)
    return int(torch.multinomial(probabilities.cpu(), 1, generator=generator))


def generate(
    model: GPT,
    ids: list[int],
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 0,
) -> Iterator[int]:
    """New token ids after the prompt `ids`, one at a time. Only the last block_size tokens are seen.

    Draws from a generator of its own, so the program's random state is neither used nor changed. The model
    should be in eval mode (see headwise.model.gpt.eval_mode), or its dropout takes part.
    """
    require(len(ids) > 0, "the prompt is empty; give at least one character")
    require(max_new_tokens >= 0, f"max_new_tokens={max_new_tokens} must be at least 0")
    require(0 <= temperature < math.inf, f"temperature={temperature} must be a number of at least 0")
    require(top_k is None or top_k >= 1, f"top_k={top_k} must be at least 1")
    require(0 <= seed < 1 << 63, f"seed={seed} must be at least 0 and below 2^63")
    return decode(model, list(ids), max_new_tokens, temperature, top_k, torch.Generator().manual_seed(seed))


def decode(
    model: GPT,
    context: list[int],
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    generator: torch.Generator,
) -> Iterator[int]:
    """The loop behind generate: the whole window through the model, one token drawn, added to the context."""
    device = model.embedding.weight.device
    for _ in range(max_new_tokens):
        window = torch.tensor([context[-model.config.block_size :]], device=device)
        with torch.inference_mode():
            logits = model(window)[0, -1]
        context.append(sample(logits, temperature, top_k, generator))
        yield context[-1]
