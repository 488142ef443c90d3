"""What runs at a time save, and what ending bad trials early saves.

    python benchmarks/sweeps.py [--parts grid pruning] [--jobs 12] [--trials 20]

grid: the same grid of runs by Hydra multirun, one after the other and two at a time (hydra/launcher=joblib), each with
one thread; the losses of both must be the same, bit for bit.
pruning: one search over the same trials with and without successive halving: optimizer steps taken, counted in the
runs' metrics.csv, and the best loss found. The sampler is random, so that both try the very same rates.
"""

from __future__ import annotations

import argparse
import csv
import platform
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import torch
from hardware import processor

ROOT = Path(__file__).parents[1]
MODEL = [
    *("model.n_layer=2", "model.n_head=4", "model.n_embd=64", "model.block_size=64", "data.batch_size=16", "threads=1"),
    *("logger=none", "callbacks.samples.every_n_steps=null", "callbacks.attention.every_n_steps=null"),
    *("schedule.warmup_steps=20", "compile=false", "data.val_tokens=8192"),
]


def run(script: str, cwd: Path, *overrides: str) -> tuple[float, list[dict[str, str]]]:
    """Seconds that a script took, imports included, and the rows of its sweep.csv."""
    began = time.perf_counter()
    command = [sys.executable, str(ROOT / "scripts" / f"{script}.py"), *MODEL, *overrides]
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    assert result.returncode == 0, result.stderr
    folder = cwd / next(o.removeprefix("run_dir=") for o in overrides if o.startswith("run_dir="))
    with (folder / "sweep.csv").open() as file:
        return seconds, list(csv.DictReader(file))


def steps_taken(folder: Path) -> int:
    """Optimizer steps of all runs in a sweep's folder, as their metrics.csv tell."""
    return sum(int(list(csv.DictReader(file.open()))[-1]["step"]) for file in folder.glob("*/metrics.csv"))


def grid(flags: argparse.Namespace, cwd: Path) -> None:
    """The same runs one after the other and two at a time."""
    seeds = ",".join(str(seed) for seed in range(1, flags.jobs // 4 + 1))
    wanted = ["-m", f"trainer.max_steps={flags.grid_steps}", f"trainer.val_check_interval={flags.grid_steps}"]
    wanted += ["model.position=rotary,learned", "optimizer.muon_lr=0.01,0.02", f"seed={seeds}"]
    run("train", cwd, "trainer.max_steps=1", "-m", "seed=1", "run_dir=first")  # packs the text
    print("| runs | one after the other, s | two at a time, s | ratio | losses |\n|---|---|---|---|---|")
    for round_ in range(flags.rounds):
        alone, one = run("train", cwd, *wanted, f"run_dir=one_{round_}")
        pair, two = run("train", cwd, *wanted, f"run_dir=two_{round_}", "hydra/launcher=joblib")
        same = [row["val_loss"] for row in one] == [row["val_loss"] for row in two]
        print(f"| {len(one)} | {alone:.1f} | {pair:.1f} | {pair / alone:.3f} | {'the same' if same else 'DIFFERENT'} |")


def pruning(flags: argparse.Namespace, cwd: Path) -> None:
    """The same trials with and without halving."""
    every = max(1, flags.steps // 16)
    wanted = [f"trainer.max_steps={flags.steps}", f"trainer.val_check_interval={every}", "sweep.sampler=random"]
    wanted += [f"sweep.n_trials={flags.trials}"]
    print("| sampler's seed | pruner | steps | saved | best loss | above the best unpruned | seconds |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for seed in range(flags.rounds):
        found: dict[str, tuple[int, float]] = {}
        for pruner in ("none", "halving"):
            folder = f"{pruner}_{seed}"
            options = [
                f"sweep.pruner={pruner}",
                f"sweep.seed={seed}",
                f"run_dir={folder}",
                f"sweep.min_steps={2 * every}",
            ]
            seconds, rows = run("sweep", cwd, *wanted, *options)
            best = min(float(row["val_loss"]) for row in rows if row["state"] == "complete")
            steps = steps_taken(cwd / folder)
            found[pruner] = steps, best
            all_steps, least = found["none"]
            cells = [f"{steps:,}", f"{1 - steps / all_steps:.1%}", f"{best:.4f}", f"{best / least - 1:.2%}"]
            print(f"| {seed} | {pruner} | {' | '.join(cells)} | {seconds:.0f} |", flush=True)


PARTS = {"grid": grid, "pruning": pruning}


def main() -> None:
    parser = argparse.ArgumentParser(description="What runs at a time and ending trials early save.")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--jobs", type=int, default=12, help="runs of the grid, a multiple of four")
    parser.add_argument("--grid-steps", type=int, default=1000, help="of each run of the grid")
    parser.add_argument("--steps", type=int, default=400, help="of each trial")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=1)
    flags = parser.parse_args()
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    print(f"{processor()}, {versions}; {date.today()}; {flags.grid_steps} and {flags.steps} steps\n", flush=True)
    for part in flags.parts:
        with tempfile.TemporaryDirectory() as folder:
            PARTS[part](flags, Path(folder))
        print(flush=True)


if __name__ == "__main__":
    main()
