"""Sample the next token from its logits: filters in a fixed order, then one random number for each text.

    sampling = Sampling(temperature=0.8, top_p=0.9)
    ids = sample_tokens(logits, sampling, next(uniform_numbers([1, 2])))      # one token for each of two texts

Dimensions: B texts, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from headwise.config import key

NUMBERS_AT_ONCE = 256  # random numbers of a text that are drawn together, which is faster


@dataclass(frozen=True)
class Sampling:
    """Options of sampling. They apply in this order."""

    repetition_penalty: float = key(1.0, "above 1: tokens that are in the text already become less likely", above=0)
    temperature: float = key(1.0, "below 1: likely tokens become more likely; 0: always the most likely", at_least=0)
    top_k: int | None = key(None, "only from the top_k most likely tokens", at_least=1)
    top_p: float | None = key(None, "only from the most likely with this probability together", above=0, at_most=1)
    min_p: float | None = key(None, "only from those min_p times as likely as the most likely", at_least=0, at_most=1)


def apply_repetition_penalty(logits: Tensor, present: Tensor, penalty: float) -> Tensor:
    """Return logits [B, V] in which those of tokens that are `present` [B, V] in the text are divided by the penalty if
    positive, and multiplied by it otherwise (Keskar et al. 2019, section 4.1)."""
    return torch.where(present, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def keep_top_k(logits: Tensor, top_k: int) -> Tensor:
    """Return logits [B, V] with all below the top_k-th largest set to minus infinity."""
    least = logits.topk(min(top_k, logits.size(-1))).values[..., -1:]
    return logits.masked_fill(logits < least, -math.inf)


def keep_top_p(logits: Tensor, top_p: float) -> Tensor:
    """Return logits [B, V] with all set to minus infinity except the fewest most likely ones whose probabilities reach
    top_p together (Holtzman et al. 2019)."""
    ascending, order = logits.sort()
    unlikely = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - top_p
    unlikely[..., -1] = False
    return logits.masked_fill(torch.zeros_like(unlikely).scatter(-1, order, unlikely), -math.inf)


def keep_min_p(logits: Tensor, min_p: float) -> Tensor:
    """Return logits [B, V] with those less likely than min_p times the most likely one set to minus infinity (Nguyen
    et al. 2024)."""
    probabilities = logits.softmax(dim=-1)
    return logits.masked_fill(probabilities < min_p * probabilities.amax(dim=-1, keepdim=True), -math.inf)


def apply_filters(logits: Tensor, sampling: Sampling, present: Tensor | None = None) -> Tensor:
    """Return logits [B, V] after all filters, for a temperature above 0."""
    if present is not None:
        logits = apply_repetition_penalty(logits, present, sampling.repetition_penalty)
    if sampling.temperature != 1:
        logits = logits / max(sampling.temperature, 1e-30)  # a smaller divisor would overflow float32
    if sampling.top_k is not None:
        logits = keep_top_k(logits, sampling.top_k)
    if sampling.top_p is not None:
        logits = keep_top_p(logits, sampling.top_p)
    if sampling.min_p is not None:
        logits = keep_min_p(logits, sampling.min_p)
    return logits


def sample_tokens(logits: Tensor, sampling: Sampling, uniform: Tensor, present: Tensor | None = None) -> Tensor:
    """Return a token [B] for each row of logits [B, V], by inverse transform sampling: the first token up to which the
    probabilities sum to more than the row's number in `uniform` [B], from 0 to 1. Rows do not affect one another."""
    logits = logits.float()
    if sampling.temperature == 0:
        chosen = logits if present is None else apply_repetition_penalty(logits, present, sampling.repetition_penalty)
        return chosen.argmax(dim=-1)
    exact = torch.float64 if logits.device.type != "mps" else torch.float32  # MPS has no float64
    cumulative = apply_filters(logits, sampling, present).softmax(dim=-1, dtype=exact).cumsum(dim=-1)
    ids = torch.searchsorted(cumulative, uniform[:, None].to(cumulative) * cumulative[:, -1:], right=True)
    return ids.squeeze(-1).clamp(max=logits.size(-1) - 1)


def uniform_numbers(seeds: list[int]) -> Iterator[Tensor]:
    """Yield random numbers from 0 to 1 [B], each from a generator with its own seed."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    while True:
        numbers = [torch.rand(NUMBERS_AT_ONCE, generator=one, dtype=torch.float64) for one in generators]
        yield from torch.stack(numbers, dim=1)
