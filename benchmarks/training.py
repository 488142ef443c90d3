"""Training against a checkout of nanoGPT, on the same machine in one interleaved run, and against a bare loop.

    python benchmarks/training.py --nanogpt PATH --text tinyshakespeare.txt [--parts step loop race] [--rounds N]

step: an optimizer step at nanoGPT's CPU shape (4 layers, 4 heads, 128 wide, 64 tokens, 12 windows), each in turn.
loop: the quickstart's shape under Lightning, logging and callbacks included, against a bare loop, ten steps in turn.
race: nanoGPT's own CPU command as a process, and ours (experiment=shakespeare_race) to the same whole-split loss.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import pickle
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import lightning as L
import numpy as np
import torch
import yaml
from hardware import processor
from step import seconds

from headwise.config import GPTConfig, OptimizerConfig, TrainConfig
from headwise.data.sampler import ValBatches, window_starts, windows_at
from headwise.data.token_files import TokenFiles
from headwise.evaluation import mean_loss
from headwise.launch import launch
from headwise.model.gpt import GPT, next_token_loss
from headwise.training.build import build_callbacks
from headwise.training.optimizers import make_optimizer
from headwise.training.resolve import RunConfig
from headwise.training.train import train as run_training

ROOT = Path(__file__).parents[1]
SHAPE = {"n_layer": 4, "n_head": 4, "n_embd": 128, "block_size": 64}
QWEN3 = {
    "position": "rotary",
    "norm": "rmsnorm",
    "mlp": "swiglu",
    "bias": False,
    "qk_norm": True,
    "tie_embeddings": False,
    "init": "zero_output",
}
NANOGPT_COMMAND = [  # its README's, for a CPU
    *("config/train_shakespeare_char.py", "--device=cpu", "--compile=False", "--eval_iters=20", "--log_interval=1"),
    *("--block_size=64", "--batch_size=12", "--n_layer=4", "--n_head=4", "--n_embd=128", "--max_iters=2000"),
    *("--lr_decay_iters=2000", "--dropout=0.0"),
]


def characters(text: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Training and validation tokens (90/10), one for each character, and the characters."""
    known = sorted(set(text))
    index = {c: i for i, c in enumerate(known)}
    ids = np.array([index[c] for c in text], dtype=np.uint16)
    cut = int(len(ids) * 0.9)
    return ids[:cut], ids[cut:], known


def nanogpt_model(nanogpt: Path, vocabulary: int) -> Any:
    """Its model at the CPU shape."""
    sys.path.insert(0, str(nanogpt))
    from model import GPT as NanoGPT
    from model import GPTConfig as NanoConfig

    return NanoGPT(NanoConfig(**SHAPE, vocab_size=vocabulary, dropout=0.0, bias=False))


def all_logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """nanoGPT's logits at every position, which it computes only where it is given targets."""
    return model(ids, ids)[0]


def take_steps(forward: Callable, parameters: list, optimizer: torch.optim.Optimizer) -> Callable[[], float]:
    """A function that takes one optimizer step as both train: forward, backward, clip, step."""

    def step() -> float:
        loss = forward()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def bench_step(nanogpt: Path, tokens: np.ndarray, vocabulary: int, rounds: int) -> None:
    """Print the time of a step of each, and its ratio to nanoGPT's eager step."""
    starts = window_starts(0, 0, len(tokens), 65, 12)
    ids = torch.from_numpy(windows_at(tokens, starts, 65))
    x, y = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    torch.manual_seed(1337)
    theirs = nanogpt_model(nanogpt, vocabulary)
    optimizer = theirs.configure_optimizers(0.1, 1e-3, (0.9, 0.99), "cpu")
    steps = {"nanoGPT, eager": take_steps(lambda: theirs(x, y)[1], list(theirs.parameters()), optimizer)}
    for name, kinds, kind, compiled in (
        ("gpt2, AdamW, eager", {"bias": False}, "adamw", False),
        ("gpt2, AdamW, compiled", {"bias": False}, "adamw", True),
        ("qwen3, AdamW, eager", QWEN3, "adamw", False),
        ("qwen3, AdamW, compiled", QWEN3, "adamw", True),
        ("qwen3, Muon, compiled", QWEN3, "muon", True),
    ):
        model = GPT(GPTConfig(vocab_size=vocabulary, **SHAPE, **kinds))  # type: ignore[arg-type]
        if compiled:
            model.compile()

        def forward(model: GPT = model) -> torch.Tensor:
            return next_token_loss(model(x), y)

        steps[name] = take_steps(forward, list(model.parameters()), make_optimizer(model, OptimizerConfig(kind=kind)))
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        seconds(step, 5)
    for _ in range(rounds):
        for name, step in steps.items():
            taken[name].append(seconds(step, 10))
    print("| step | ms | of nanoGPT's |\n|---|---|---|")
    for name, times in taken.items():
        ratio = statistics.median(a / b for a, b in zip(times, taken["nanoGPT, eager"], strict=True))
        print(f"| {name} | {1000 * statistics.median(times):.1f} | {ratio:.2f} |")
    print(flush=True)


def train(*overrides: str) -> tuple[float, dict, dict, list[dict]]:
    """Wall seconds of one training process, its summary, configuration and metrics."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "scripts/train.py"), f"run_dir={folder}/run", *overrides]
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"WANDB_MODE": "offline"})
        wall = time.perf_counter() - start
        with (Path(folder) / "run/metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        summary = json.loads((Path(folder) / "run/summary.json").read_text())
        return wall, summary, yaml.safe_load((Path(folder) / "run/config.yaml").read_text()), rows


class Beside(L.Callback):
    """A bare loop beside the training it belongs to: after every ten steps of Lightning's, ten of its own, over a copy
    of the model with its own optimizer."""

    def __init__(self, config: RunConfig, token_files: TokenFiles):
        self.model = GPT(config.model)
        self.optimizer = make_optimizer(self.model, config.optimizer)
        self.tokens, self.size, self.batch = (
            token_files.tokens("train"),
            config.model.block_size + 1,
            config.data.batch_size,
        )
        self.steps, self.since = 0, math.nan
        self.lightning: list[float] = []  # seconds of ten steps and what is done between them
        self.bare: list[float] = []

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % 10:
            return
        began = time.perf_counter()
        for _ in range(10):
            self.step()
        if self.steps > 10:  # the first ten warm up
            self.lightning.append(began - self.since)
            self.bare.append(time.perf_counter() - began)
        self.since = time.perf_counter()

    def step(self) -> None:
        """Forward, backward, clip, step."""
        starts = window_starts(1337, self.steps, len(self.tokens), self.size, self.batch)
        ids = torch.from_numpy(windows_at(self.tokens, starts, self.size))
        next_token_loss(self.model(ids[:, :-1]), ids[:, 1:]).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.steps += 1


def in_turn(threads: int) -> Beside:
    """The quickstart with a bare loop beside it, in this process."""
    beside: list[Beside] = []

    def with_beside(run: RunConfig, folder: Path, token_files: TokenFiles, peak: float) -> list[L.Callback]:
        beside.append(Beside(run, token_files))
        return [*beside, *build_callbacks(run, folder, token_files, peak)]

    def task(config: TrainConfig) -> None:
        run_training(config)

    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch("headwise.training.build.build_callbacks", with_beside),
        mock.patch.dict(os.environ, {"WANDB_MODE": "offline"}),
        mock.patch("sys.argv", ["train.py", f"run_dir={folder}/run", f"data.cache_dir={ROOT}/data/cache"]),
        (Path(folder) / "said").open("w") as said,
        redirect_stderr(said),
    ):
        sys.argv += [f"threads={threads}", "trainer.max_steps=400", "compile=false"]
        launch(task, "train", "")
    return beside[0]


def bench_loop(threads: int, rounds: int) -> None:
    """Print what Lightning, logging and callbacks add to a bare loop over the same model and batches: the median over
    turns of ten steps each, so that a look, a sample or a validation, which fall into few, has no part in it."""
    print("| Lightning, ms a step | bare loop, ms a step | ratio |\n|---|---|---|")
    for _ in range(rounds):
        beside = in_turn(threads)
        ratio = statistics.median(a / b for a, b in zip(beside.lightning, beside.bare, strict=True))
        ours, bare = (100 * statistics.median(seconds) for seconds in (beside.lightning, beside.bare))
        print(f"| {ours:.1f} | {bare:.1f} | {ratio:.3f} |", flush=True)
    print(flush=True)


def bench_race(nanogpt: Path, text: Path, threads: int, rounds: int) -> None:
    """Print the wall time of nanoGPT's command, and of ours to the same loss."""
    train_tokens, val_tokens, known = characters(text.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "nanogpt"
        shutil.copytree(nanogpt, copy, ignore=shutil.ignore_patterns(".git"))
        data = copy / "data/shakespeare_char"
        data.mkdir(exist_ok=True)
        train_tokens.tofile(data / "train.bin")
        val_tokens.tofile(data / "val.bin")
        meta = {"vocab_size": len(known), "itos": dict(enumerate(known)), "stoi": {c: i for i, c in enumerate(known)}}
        (data / "meta.pkl").write_bytes(pickle.dumps(meta))
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        print("| | wall seconds | whole-split loss |\n|---|---|---|")
        for _ in range(rounds):
            start = time.perf_counter()
            subprocess.run(
                [sys.executable, "train.py", *NANOGPT_COMMAND],
                check=True,
                cwd=copy,
                stdout=subprocess.DEVNULL,
                env=environment,
            )
            theirs = time.perf_counter() - start
            model = nanogpt_model(copy, len(known))
            saved = torch.load(copy / "out-shakespeare-char/ckpt.pt", map_location="cpu", weights_only=True)
            model.load_state_dict(saved["model"])
            model.eval()
            batches = ValBatches(val_tokens, SHAPE["block_size"], len(known))
            loss = mean_loss(partial(all_logits, model), batches)
            print(f"| nanoGPT, 2,000 steps (its best checkpoint) | {theirs:.0f} | {loss:.4f} |", flush=True)
            wall, summary, _, _ = train(
                "experiment=shakespeare_race", f'data.path="{text.resolve()}"', f"threads={threads}"
            )
            name = f"Headwise, {summary['steps']} steps"
            print(f"| {name} | {wall:.0f} ({wall / theirs:.2f} of nanoGPT's) | {summary['val_loss']:.4f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Training against nanoGPT and a bare loop.")
    parser.add_argument("--nanogpt", type=Path, help="a checkout of nanoGPT; needed for step and race")
    parser.add_argument("--text", type=Path, help="tinyshakespeare.txt; needed for step and race")
    parser.add_argument("--parts", nargs="+", choices=["step", "loop", "race"], default=["step", "loop", "race"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    flags = parser.parse_args()
    if {"step", "race"} & set(flags.parts) and not (flags.nanogpt and flags.text):
        parser.error("step and race need --nanogpt PATH and --text FILE")
    torch.set_num_threads(flags.threads)
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    print(f"{processor()}, {flags.threads} threads; {versions}; {date.today()}; {flags.rounds} rounds\n", flush=True)
    if "step" in flags.parts:
        tokens, _, known = characters(flags.text.read_text(encoding="utf-8"))
        bench_step(flags.nanogpt, tokens, len(known), 5 * flags.rounds)
    if "loop" in flags.parts:
        bench_loop(flags.threads, flags.rounds)
    if "race" in flags.parts:
        bench_race(flags.nanogpt, flags.text, flags.threads, flags.rounds)


if __name__ == "__main__":
    main()
