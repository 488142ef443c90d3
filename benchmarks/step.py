"""One optimizer step of `model=gpt2` against a plain PyTorch GPT of the same shape, interleaved.

    python benchmarks/step.py [--threads N] [--rounds N]

Both use fused attention and the same fused AdamW, and start from the same weights, so that their losses must agree. A
third column is the same gpt2 model after a capture: looking must leave no cost behind. Each round times every model
once, in turn; a ratio is the median over rounds of the ratios within a round.
"""

from __future__ import annotations

import argparse
import copy
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date

import torch
from hardware import processor
from torch import Tensor, nn
from torch.nn import functional as F

from headwise.config import GPTConfig
from headwise.inspection.hooks import capture
from headwise.model.gpt import GPT, next_token_loss

SHAPES = {  # name: layers, heads, width, context, batch, vocabulary
    "nanoGPT's CPU shape": (4, 4, 128, 64, 12, 65),
    "six layers of 384": (6, 6, 384, 256, 8, 65),
}


class PlainBlock(nn.Module):
    """A pre-norm GPT-2 block with nothing in it that training does not need."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm_1 = nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm_2 = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        q, k, v = (
            part.view(b, t, self.heads, c // self.heads).transpose(1, 2)
            for part in self.qkv(self.norm_1(x)).split(c, dim=2)
        )
        z = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(z.transpose(1, 2).reshape(b, t, c))
        return x + self.down(F.gelu(self.up(self.norm_2(x)), approximate="tanh"))


class PlainGPT(nn.Module):
    """GPT-2 as one would write it for this shape alone."""

    def __init__(self, layers: int, heads: int, width: int, context: int, vocabulary: int):
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(PlainBlock(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.places(torch.arange(ids.size(1)))
        for block in self.blocks:
            x = block(x)
        return self.norm(x) @ self.tokens.weight.T

    def take_weights_of(self, model: GPT) -> None:
        """Start where `model` starts: both have their parameters in the same order."""
        for mine, theirs in zip(self.parameters(), model.parameters(), strict=True):
            mine.data.copy_(theirs.data)


def stepper(model: nn.Module, ids: Tensor) -> Callable[[], float]:
    """A function that takes one optimizer step and gives the loss before it."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

    def step() -> float:
        loss = next_token_loss(model(ids[:, :-1]), ids[:, 1:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def seconds(step: Callable[[], object], times: int) -> float:
    """Seconds for each of several steps."""
    start = time.perf_counter()
    for _ in range(times):
        step()
    return (time.perf_counter() - start) / times


def measure(shape: tuple[int, ...], rounds: int, times: int) -> dict[str, list[float]]:
    """Seconds a step of each model in every round. Asserts that the models learn the same."""
    layers, heads, width, context, batch, vocabulary = shape
    torch.manual_seed(1337)
    config = GPTConfig(
        vocab_size=vocabulary, block_size=context, n_layer=layers, n_head=heads, n_embd=width, norm_eps=1e-5
    )
    ours = GPT(config)
    looked_at, plain = copy.deepcopy(ours), PlainGPT(layers, heads, width, context, vocabulary)
    plain.take_weights_of(ours)
    ids = torch.randint(vocabulary, (batch, context + 1))
    with capture(looked_at):
        looked_at(ids[:, :-1])
    steps = {"plain": stepper(plain, ids), "gpt2": stepper(ours, ids), "looked at": stepper(looked_at, ids)}
    for _ in range(5):
        losses = [step() for step in steps.values()]
        assert max(losses) - min(losses) < 1e-4, losses
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for i in range(rounds):
        names = list(steps)[i % 3 :] + list(steps)[: i % 3]  # each goes first as often as the others
        for name in names:
            taken[name].append(seconds(steps[name], times))
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description="A training step against a plain PyTorch GPT.")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=20)
    flags = parser.parse_args()
    torch.set_num_threads(flags.threads)
    print(
        f"{processor()}, {flags.threads} threads; torch {torch.__version__}, Python {platform.python_version()};",
        end=" ",
    )
    print(f"{date.today()}; {flags.rounds} rounds\n")
    print("| shape | plain, ms a step | gpt2, ratio | gpt2 after a capture, ratio |\n|---|---|---|---|")
    for name, shape in SHAPES.items():
        taken = measure(shape, flags.rounds, times=10 if shape[2] < 200 else 2)
        ratios = [
            statistics.median(a / b for a, b in zip(taken[ours], taken["plain"], strict=True))
            for ours in ("gpt2", "looked at")
        ]
        print(
            f"| {name} | {1000 * statistics.median(taken['plain']):.1f} | {ratios[0]:.3f} | {ratios[1]:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
