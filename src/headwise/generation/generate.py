"""Text from a model, token by token, as a few small functions.

    sampling = Sampling(temperature=0.8, top_p=0.9)
    for ids in generate(model, [tokenizer.encode("def "), tokenizer.encode("class ")], 100, sampling, seeds=[1, 2]):
        ...                                  # one new token for each of the two texts, a hundred times

A model sees block_size tokens. Where a text grows beyond, its oldest half block is forgotten and the rest read anew, so
that it always sees the last half block at least; window_start says from which token on.

Dimensions: B texts, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from headwise.errors import require
from headwise.generation.sampling import Sampling, draws, sample
from headwise.model.gpt import GPT
from headwise.model.kv_cache import KVCache
from headwise.tokenizer import TextStream, Tokenizer

Heard = Callable[[int, str], None]


AT_ONCE = 4096  # texts in one batch, at most


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


class Writer:
    """The text of one sample as its tokens come: whole characters only, and none that a stop string may yet begin with.

        writer = Writer(tokenizer, stop=["\\n\\n"])
        text = writer.push(token)          # what is certain by now, perhaps nothing
        text = writer.finish()             # the rest, if nothing stopped it

    `stopped` once a stop string or the end of the text came.
    """

    def __init__(self, tokenizer: Tokenizer, stop: list[str]):
        self.stop, self.end_of_text = stop, tokenizer.end_of_text
        self.stream = TextStream(tokenizer)
        self.held = ""  # may be the beginning of a stop string
        self.stopped = False

    def push(self, token: int) -> str:
        """What the token adds."""
        if token == self.end_of_text:
            return self.end()
        self.held += self.stream.push(token)
        return self.release()

    def finish(self) -> str:
        """What is left when no more tokens come."""
        return "" if self.stopped else self.end()

    def end(self) -> str:
        """The rest, up to a stop string in it."""
        self.held += self.stream.finish()
        text = self.release() + self.held
        self.held, self.stopped = "", True
        return text

    def release(self) -> str:
        """Take what is certain from what is held: up to the first stop string, or all but the beginning of one."""
        found = [at for at in (self.held.find(stop) for stop in self.stop) if at >= 0]
        if found:
            text, self.held, self.stopped = self.held[: min(found)], "", True
            return text
        begun = max((overlap(self.held, stop) for stop in self.stop), default=0)
        cut = len(self.held) - begun
        text, self.held = self.held[:cut], self.held[cut:]
        return text


def overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` are the beginning of `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)


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
