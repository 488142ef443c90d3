"""Text from a model, token by token, as a few small functions.

    sampling = Sampling(temperature=0.8, top_p=0.9)
    for ids in generate(model, [tokenizer.encode("def "), tokenizer.encode("class ")], 100, sampling, seeds=[1, 2]):
        ...                                  # one new token for each of the two texts, a hundred times

A model sees block_size tokens. Where a text grows beyond, its oldest half block is forgotten and the rest read anew, so
that it always sees the last half block at least; window_start says from which token on.

Dimensions: B texts, T tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from headwise.errors import require
from headwise.generation.writer import Writer
from headwise.model.gpt import GPT
from headwise.model.kv_cache import KVCache
from headwise.tokenizer import Tokenizer

Heard = Callable[[int, str], None]


DRAWN = 256  # random numbers drawn at once
AT_ONCE = 4096  # texts in one batch, at most


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


def window_start(length: int, block_size: int) -> int:
    """The first of `length` tokens that the model sees: 0 until block_size is full, then half a block further each
    time."""
    half = -(-block_size // 2)
    return max(0, -(-(length - block_size) // half)) * half


class Context:
    """Texts that grow, and what a model has computed for them so far, so that nothing is computed twice.

    context = Context(model, texts, room=100)    # space for 100 more tokens, as far as the model can see them
    logits = context.read()                      # [B, V] after the last token of each
    context.add(ids)                             # [B, T] more for each
    """

    def __init__(self, model: GPT, texts: list[list[int]], room: int):
        self.model, self.texts, self.room = model, [list(text) for text in texts], room
        self.device = model.embedding.weight.device
        self.forget()

    def forget(self) -> None:
        """Let go of what was computed; the texts are read again."""
        self.cache: KVCache | None = None
        self.padding: Tensor | None = None  # [B], tokens before the shorter texts; None: there are none
        self.unread: Tensor | None = None  # [B, T], tokens that the cache does not hold yet

    def add(self, ids: Tensor) -> None:
        """Let each text go on by its row of ids [B, T]."""
        for text, new in zip(self.texts, ids.tolist(), strict=True):
            text += new
        self.unread = ids if self.unread is None else torch.cat((self.unread, ids), dim=1)

    def read(self) -> Tensor:
        """Logits [B, V] after the last token of each text. Reads what is unread, or, where that is more than the
        model sees, everything from window_start on."""
        if self.cache is None or self.unread is None or self.cache.length + self.unread.size(1) > self.cache.size:
            self.begin()
        assert self.unread is not None
        with torch.inference_mode():
            logits = self.model.last_logits(self.unread, self.padding, self.cache)
        self.unread = None
        return logits

    def begin(self) -> None:
        """Make an empty cache, and all that is seen of the texts unread."""
        block_size = self.model.config.block_size
        seen = [text[window_start(len(text), block_size) :] for text in self.texts]
        longest = max(map(len, seen))
        missing = [longest - len(ids) for ids in seen]
        self.padding = torch.tensor(missing, device=self.device) if any(missing) else None
        rows = [[0] * gap + ids for gap, ids in zip(missing, seen, strict=True)]
        self.unread = torch.tensor(rows, device=self.device)
        self.cache = KVCache(self.model.config, len(seen), min(longest + self.room, block_size))


def generate(
    model: GPT, texts: list[list[int]], max_new_tokens: int, sampling: Sampling, seeds: list[int]
) -> Iterator[tuple[Tensor, Tensor]]:
    """New tokens after the `texts`, one for each at a time: ids [B] and the logits [B, V] they were chosen from, before
    `sampling` changed them. Text b draws by seeds[b] alone.

    The program's random state is neither used nor changed. The model should be in eval mode, or its dropout takes part;
    headwise.generation.fast makes a quicker one of it. Raises UserError for wishes that cannot be met.
    """
    require(len(texts) > 0 and all(texts), "the prompt is empty; give at least one character")
    check(max_new_tokens, sampling, seeds)
    return decode(Context(model, texts, max_new_tokens), max_new_tokens, sampling, seeds)


def check(max_new_tokens: int, sampling: Sampling, seeds: Sequence[int], stop: list[str] | None = None) -> None:
    """Raise UserError for wishes that cannot be met."""
    require(max_new_tokens >= 0, f"max_new_tokens={max_new_tokens} must be at least 0")
    for seed in seeds:
        require(0 <= seed < 1 << 63, f"seed={seed} must be at least 0 and below 2^63")
    require(all(stop or []), "stop='' is empty; give at least one character")
    sampling.check()


def decode(
    context: Context, max_new_tokens: int, sampling: Sampling, seeds: list[int]
) -> Iterator[tuple[Tensor, Tensor]]:
    """The loop behind generate. The texts of the context grow."""
    device, batch = context.device, len(context.texts)
    present: Tensor | None = None
    if sampling.repetition_penalty != 1:
        present = torch.zeros(batch, context.model.config.vocab_size, dtype=torch.bool, device=device)
        for row, text in enumerate(context.texts):
            present[row, text] = True
    numbers = draws(seeds)
    for _ in range(max_new_tokens):
        logits = context.read()
        with torch.inference_mode():
            ids = sample(logits, sampling, next(numbers), present)
            if present is not None:
                present[torch.arange(batch, device=device), ids] = True
            context.add(ids[:, None])
        yield ids, logits


@dataclass
class Sample:
    """One continuation of a prompt."""

    prompt: str
    seed: int
    text: str = ""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)  # of each token by the model itself, in nats


def complete(
    model: GPT,
    tokenizer: Tokenizer,
    prompts: list[str],
    max_new_tokens: int,
    sampling: Sampling,
    seeds: Sequence[int],
    stop: list[str],
    heard: Heard = lambda sample, text: None,
) -> list[Sample]:
    """Continue each prompt once for each seed, all in one batch, until a `stop` string, the end of the text or
    max_new_tokens. heard(i, text) is told at each token what is certain by then of what sample i writes."""
    require(len(prompts) * len(seeds) <= AT_ONCE, f"more than {AT_ONCE} texts are too many at once; give fewer samples")
    check(max_new_tokens, sampling, seeds, stop)
    samples = [Sample(prompt, seed) for prompt in prompts for seed in seeds]
    texts = [tokenizer.encode(sample.prompt, "the prompt") for sample in samples]
    steps = generate(model, texts, max_new_tokens, sampling, [sample.seed for sample in samples])
    write(samples, steps, tokenizer, stop, heard)
    return samples


def write(
    samples: list[Sample],
    steps: Iterator[tuple[Tensor, Tensor]],
    tokenizer: Tokenizer,
    stop: list[str],
    heard: Heard = lambda sample, text: None,
) -> None:
    """Put what the steps of generate or decode give into the samples, until all of them have stopped."""
    writers = [Writer(tokenizer, stop) for _ in samples]

    def tell(i: int, text: str) -> None:
        samples[i].text += text
        heard(i, text)

    for ids, logits in steps:
        chosen = logits.float().log_softmax(dim=-1).gather(-1, ids[:, None]).squeeze(-1).tolist()
        for i, (token, logprob) in enumerate(zip(ids.tolist(), chosen, strict=True)):
            if not writers[i].stopped:
                samples[i].tokens.append(token)
                samples[i].logprobs.append(logprob)
                tell(i, writers[i].push(token))
        if all(writer.stopped for writer in writers):
            break
    for i, writer in enumerate(writers):
        tell(i, writer.finish())
