"""A scaling law of small models: loss as a function of N parameters and D training tokens, fitted to the runs of a grid
and compared with one that was held out.

    python scripts/train.py -m model.n_embd=32,48,64,96 trainer.max_steps=300,600,1200 run_dir=GRID ...
    python benchmarks/scaling.py GRID --held-out RUN [--output scaling.png]

Two forms are tried: the sum E + A / N^a + B / D^b (Hoffmann et al. 2022, equation 2), of models trained until they gain
no more from either alone, and the product E + A / (N^a D^b), of models that are far from it. The one that predicts the
grid's largest models better from its smaller ones is taken; the run that is held out has no part in that.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

EXPONENTS = np.geomspace(0.05, 3, 160)
Powers = list[tuple[float, float]]  # of 1/N and of 1/D in each term
FORMS: dict[str, Callable[[float, float], Powers]] = {
    "sum": lambda a, b: [(0, 0), (a, 0), (0, b)],
    "product": lambda a, b: [(0, 0), (a, b)],
}


class Run(NamedTuple):
    """What a run came to."""

    parameters: int
    tokens: int
    loss: float  # nats per token, whole validation split


class Law(NamedTuple):
    """loss = the sum of factor / (parameters^a tokens^b) over the terms."""

    factors: list[float]
    powers: Powers

    def __call__(self, parameters: float, tokens: float | np.ndarray) -> float | np.ndarray:
        return sum(f * parameters**-a * tokens**-b for f, (a, b) in zip(self.factors, self.powers, strict=True))

    def __str__(self) -> str:
        terms = [
            f"{f:.4g} / (N^{a:.3g} D^{b:.3g})" for f, (a, b) in zip(self.factors[1:], self.powers[1:], strict=True)
        ]
        return f"loss = {' + '.join([f'{self.factors[0]:.4g}', *terms])}"


def read(folder: Path) -> Run:
    """The run of a folder."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return Run(summary["parameters"], summary["train_tokens"], summary["val_loss"])


def fit(runs: list[Run], form: str) -> Law:
    """The law of that form with the least squares of relative errors: for each pair of exponents on a grid the factors
    are a linear problem; of those without a negative factor the best is taken."""
    n, d, loss = (np.array(column, dtype=float) for column in zip(*runs, strict=True))
    best, found = np.inf, None
    for a in EXPONENTS:
        for b in EXPONENTS:
            powers = FORMS[form](float(a), float(b))
            columns = np.stack([n**-p * d**-q for p, q in powers], axis=1) / loss[:, None]
            factors, *_ = np.linalg.lstsq(columns, np.ones_like(loss), rcond=None)
            error = float(np.sum((columns @ factors - 1) ** 2))
            if error < best and factors.min() >= 0:
                best, found = error, Law(factors.tolist(), powers)
    assert found is not None, "no law fits"
    return found


def off(law: Law, runs: list[Run]) -> float:
    """The mean absolute relative error of a law."""
    return float(np.mean([abs(float(law(run.parameters, run.tokens)) / run.loss - 1) for run in runs]))


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
    largest = max(run.parameters for run in runs)
    smaller, larger = ([run for run in runs if (run.parameters == largest) == at_end] for at_end in (False, True))
    tried = {form: off(fit(smaller, form), larger) for form in FORMS}
    for form, error in tried.items():
        print(f"{form}: {error:.1%} off on the {largest:,} parameters that it was not fitted to")
    law = fit(runs, min(tried, key=lambda form: tried[form]))
    print("\n| parameters | training tokens | loss | law | error |\n|---|---|---|---|---|")
    for run in [*sorted(runs), held]:
        predicted = float(law(run.parameters, run.tokens))
        wrong = f"{predicted / run.loss - 1:+.1%}{' held out' if run is held else ''}"
        print(f"| {run.parameters:,} | {run.tokens:,} | {run.loss:.4f} | {predicted:.4f} | {wrong} |")
    print(f"\n{law}")
    if flags.output:
        draw(runs, law, held, flags.output)


if __name__ == "__main__":
    main()
