"""A scaling law of small models: loss as E + A / N^a + B / D^b of N parameters and D training tokens (Hoffmann et al.
2022, equation 2), fitted to the runs of a grid and compared with one that was held out.

    python scripts/train.py -m model.n_embd=32,48,64,96 trainer.max_steps=300,600,1200 run_dir=GRID ...
    python benchmarks/scaling.py GRID --held-out RUN [--output scaling.png]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

EXPONENTS = np.geomspace(0.05, 3, 160)


class Run(NamedTuple):
    """What a run came to."""

    parameters: int
    tokens: int
    loss: float  # nats per token, whole validation split


class Law(NamedTuple):
    """loss = e + a / parameters^alpha + b / tokens^beta."""

    e: float
    a: float
    alpha: float
    b: float
    beta: float

    def __call__(self, parameters: float, tokens: float | np.ndarray) -> float | np.ndarray:
        return self.e + self.a * parameters**-self.alpha + self.b * tokens**-self.beta


def read(folder: Path) -> Run:
    """The run of a folder."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return Run(summary["parameters"], summary["train_tokens"], summary["val_loss"])


def fit(runs: list[Run]) -> Law:
    """The law with the least squares of relative errors: for each pair of exponents on a grid the best of the other
    three is a linear problem; of those without a negative number the best is taken."""
    n, d, loss = (np.array(column, dtype=float) for column in zip(*runs, strict=True))
    best, found = np.inf, None
    for alpha in EXPONENTS:
        for beta in EXPONENTS:
            columns = np.stack([np.ones_like(n), n**-alpha, d**-beta], axis=1) / loss[:, None]
            (e, a, b), *_ = np.linalg.lstsq(columns, np.ones_like(loss), rcond=None)
            error = float(np.sum((columns @ [e, a, b] - 1) ** 2))
            if error < best and min(e, a, b) >= 0:
                best, found = error, Law(e, a, alpha, b, beta)
    assert found is not None, "no law fits"
    return found


def draw(runs: list[Run], law: Law, held: Run, file: Path) -> None:
    """The picture: loss against compute, a line for each size."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    tokens = np.geomspace(min(run.tokens for run in runs) / 1.2, max(run.tokens for run in [*runs, held]) * 1.2, 99)
    for size in sorted({run.parameters for run in runs}):
        mine = [run for run in runs if run.parameters == size]
        (line,) = axes.plot(6 * size * tokens, law(size, tokens), linewidth=1)
        points = [6 * size * run.tokens for run in mine], [run.loss for run in mine]
        axes.plot(*points, "o", color=line.get_color(), label=f"{size:,} parameters")
    axes.plot(6 * held.parameters * tokens, law(held.parameters, tokens), "k--", linewidth=1)
    axes.plot(6 * held.parameters * held.tokens, held.loss, "k*", markersize=12, label=f"held out: {held.parameters:,}")
    axes.set(xscale="log", xlabel="operations of training, 6 N D", ylabel="validation loss, nats per character")
    axes.set_title("Lines are the law, fitted to the dots alone")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description="A scaling law of small models.")
    parser.add_argument("grid", type=Path, help="the folder of a multirun")
    parser.add_argument("--held-out", type=Path, required=True, help="the folder of the run to predict")
    parser.add_argument("--output", type=Path, help="where to draw it")
    flags = parser.parse_args()
    runs, held = [read(file.parent) for file in sorted(flags.grid.glob("*/summary.json"))], read(flags.held_out)
    law = fit(runs)
    print("| parameters | training tokens | loss | law | error |\n|---|---|---|---|---|")
    for run in [*sorted(runs), held]:
        predicted = float(law(run.parameters, run.tokens))
        cells = (
            f"{run.parameters:,} | {run.tokens:,} | {run.loss:.4f} | {predicted:.4f} | {predicted / run.loss - 1:+.1%}"
        )
        print(f"| {cells}{' held out' if run is held else ''} |")
    print(f"\nloss = {law.e:.3f} + {law.a:.3g} / N^{law.alpha:.2f} + {law.b:.3g} / D^{law.beta:.2f}")
    if flags.output:
        draw(runs, law, held, flags.output)


if __name__ == "__main__":
    main()
