"""What watching attention costs: an experiment with its default looks and pictures, and without any, in turn.

    python benchmarks/watching.py [--experiments quickstart shakespeare_cpu] [--text tinyshakespeare.txt] [--rounds N]

What a run takes beside its optimizer steps (validation, samples, pictures, the page) hardly varies, so the difference
in that is the cost; the losses of both must be the same, bit for bit.
"""

from __future__ import annotations

import argparse
import platform
import statistics
from datetime import date
from pathlib import Path

import torch
from hardware import processor
from training import train


def beside_steps(*overrides: str) -> tuple[float, float, list[str]]:
    """Seconds of a run beside its optimizer steps, seconds of the steps, and every logged loss."""
    _, summary, _, rows = train("logger=wandb", *overrides)
    losses = [row[column] for row in rows for column in ("train_loss", "val_loss")]
    return summary["wall_seconds"] - summary["train_seconds"], summary["train_seconds"], losses


def main() -> None:
    parser = argparse.ArgumentParser(description="The cost of watching attention.")
    parser.add_argument("--experiments", nargs="+", default=["quickstart", "shakespeare_cpu"])
    parser.add_argument("--text", type=Path, help="tinyshakespeare.txt, for the experiments on it")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    flags = parser.parse_args()
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    print(f"{processor()}, {flags.threads} threads; {versions}; {date.today()}; {flags.rounds} rounds\n", flush=True)
    print("| experiment | steps, s | beside them, s | without maps, s | cost, s | 2% of the steps + 3 s |")
    print("|---|---|---|---|---|---|", flush=True)
    for experiment in flags.experiments:
        overrides = [f"experiment={experiment}", f"threads={flags.threads}"]
        if flags.text and experiment.startswith("shakespeare"):
            overrides.append(f'data.path="{flags.text.resolve()}"')
        costs, times = [], []
        for _ in range(flags.rounds):
            on, steps, losses = beside_steps(*overrides)
            off, _, same = beside_steps(*overrides, "callbacks.attention.every_n_steps=null")
            assert losses == same, "looking changed the losses"
            costs.append(on - off)
            times.append((steps, on, off))
        steps, on, off = (statistics.median(column) for column in zip(*times, strict=True))
        cells = [f"{x:.1f}" for x in (steps, on, off, statistics.median(costs), 0.02 * steps + 3)]
        print(f"| {experiment} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
