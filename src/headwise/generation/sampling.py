"""How the next token is chosen from its logits: filters in a fixed order, then one draw for each text.

    sampling = Sampling(temperature=0.8, top_p=0.9)
    ids = sample(logits, sampling, next(draws([1, 2])))      # one token for each of two texts

Dimensions: B texts, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from headwise.errors import require

DRAWN = 256  # random numbers drawn at once


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen, in the order in which it takes effect."""

    repetition_penalty: float = 1.0  # above 1: tokens that stand in the text already become less likely
    temperature: float = 1.0  # below 1: likely tokens become likelier; 0: always the likeliest
    top_k: int | None = None  # only from so many of the likeliest
    top_p: float | None = None  # only from the likeliest that have this probability together
    min_p: float | None = None  # only from those at least so likely as a part of the likeliest

    def check(self) -> None:
        """Raise UserError for a number that means nothing."""
        finite = math.isfinite(self.temperature) and self.temperature >= 0
        require(finite, f"temperature={self.temperature} must be a number of at least 0")
        require(self.top_k is None or self.top_k >= 1, f"top_k={self.top_k} must be at least 1")
        require(self.top_p is None or 0 < self.top_p <= 1, f"top_p={self.top_p} must be above 0 and at most 1")
        require(self.min_p is None or 0 <= self.min_p <= 1, f"min_p={self.min_p} must be between 0 and 1")
        penalty = self.repetition_penalty
        require(penalty > 0 and math.isfinite(penalty), f"repetition_penalty={penalty} must be a number above 0")


def penalize(logits: Tensor, present: Tensor, penalty: float) -> Tensor:
    """Logits [B, V] with those of tokens that are `present` [B, V] divided by the penalty where they are positive and
    multiplied by it where not (Keskar et al. 2019, section 4.1)."""
    return torch.where(present, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def keep_top_k(logits: Tensor, top_k: int) -> Tensor:
    """Logits [B, V] with all below the top_k-th largest at minus infinity."""
    least = logits.topk(min(top_k, logits.size(-1))).values[..., -1:]
    return logits.masked_fill(logits < least, -math.inf)


def keep_top_p(logits: Tensor, top_p: float) -> Tensor:
    """Logits [B, V] with all but the likeliest that together reach probability top_p at minus infinity (Holtzman et
    al. 2019)."""
    ascending, order = logits.sort()
    unlikely = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - top_p
    unlikely[..., -1] = False
    return logits.masked_fill(torch.zeros_like(unlikely).scatter(-1, order, unlikely), -math.inf)


def keep_min_p(logits: Tensor, min_p: float) -> Tensor:
    """Logits [B, V] with those less likely than min_p times the likeliest at minus infinity (Nguyen et al. 2024)."""
    probabilities = logits.softmax(dim=-1)
    return logits.masked_fill(probabilities < min_p * probabilities.amax(dim=-1, keepdim=True), -math.inf)


def filtered(logits: Tensor, sampling: Sampling, present: Tensor | None = None) -> Tensor:
    """Logits [B, V] as `sampling` changes them, at a temperature above 0; `present` [B, V] are in the text already."""
    if present is not None:
        logits = penalize(logits, present, sampling.repetition_penalty)
    if sampling.temperature != 1:
        logits = logits / max(sampling.temperature, 1e-30)  # far below it a float32 would become infinite
    if sampling.top_k is not None:
        logits = keep_top_k(logits, sampling.top_k)
    if sampling.top_p is not None:
        logits = keep_top_p(logits, sampling.top_p)
    if sampling.min_p is not None:
        logits = keep_min_p(logits, sampling.min_p)
    return logits


def sample(logits: Tensor, sampling: Sampling, uniform: Tensor, present: Tensor | None = None) -> Tensor:
    """A token for each row of logits [B, V]: where its number of `uniform` [B], between 0 and 1, falls among the
    cumulative probabilities. So each text draws by itself, whatever its neighbours are. [B]"""
    logits = logits.float()
    if sampling.temperature == 0:
        chosen = logits if present is None else penalize(logits, present, sampling.repetition_penalty)
        return chosen.argmax(dim=-1)
    exact = torch.float64 if logits.device.type != "mps" else torch.float32  # which has no better
    reached = filtered(logits, sampling, present).softmax(dim=-1, dtype=exact).cumsum(dim=-1)
    place = torch.searchsorted(reached, uniform[:, None].to(reached) * reached[:, -1:], right=True)
    return place.squeeze(-1).clamp(max=logits.size(-1) - 1)


def draws(seeds: list[int]) -> Iterator[Tensor]:
    """Numbers between 0 and 1, one for each seed at a time, [B]; each seed has a generator of its own."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    while True:  # some at once, which is quicker
        drawn = [torch.rand(DRAWN, generator=one, dtype=torch.float64) for one in generators]
        yield from torch.stack(drawn, dim=1)
