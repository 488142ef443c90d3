"""The summary of a run: summary.json, and the lines that are printed at its end."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import torch

from headwise.files import CsvTable
from headwise.inspection.plots import loss_curve
from headwise.inspection.recorder import step_of
from headwise.training.callbacks import read_samples
from headwise.training.metrics import METRICS_COLUMNS, read_losses


def summarize(folder: Path, overrides: list[str], parameters: int, wandb_run: str | None, seconds: float) -> dict:
    """Return the summary of a run, from the files that it has written, and draw its loss curve. `seconds` is the wall
    time of this process."""
    rows = CsvTable(folder / "metrics.csv", METRICS_COLUMNS).rows()
    loss_curve(read_losses(folder / "metrics.csv"), folder / "loss.png")
    validated = [row for row in rows if row["val_loss"]]
    best = min(validated, key=lambda row: float(row["val_loss"]))
    steps, tokens, trained = int(rows[-1]["step"]), int(rows[-1]["tokens"]), float(rows[-1]["seconds"])
    maps = sorted((folder / "attention").glob("maps_*_step_*.png"))
    newest = max(map(step_of, maps), default=0)
    samples = read_samples(folder / "samples.txt")
    return {
        "val_loss": float(best["val_loss"]),
        "last_val_loss": float(validated[-1]["val_loss"]),
        "val_bits_per_byte": float(best["val_bits_per_byte"]),
        "best_step": int(best["step"]),
        "steps": steps,
        "train_tokens": tokens,
        "parameters": parameters,
        "wall_seconds": round(seconds, 2),  # of this process
        "train_seconds": trained,  # over all parts of a resumed run
        "tokens_per_second": round(tokens / trained, 1),
        "threads": torch.get_num_threads(),
        "run_dir": str(folder),
        "overrides": overrides,
        "checkpoint": str(folder / "checkpoints" / "best.ckpt"),
        "attention": [str(file) for file in maps if step_of(file) == newest],
        "attention_page": str(folder / "attention/view.html") if maps else None,
        "sample": samples[max(samples)].rstrip("\n") if samples else "",
        "wandb": wandb_run,
        "versions": versions(),
        "git_commit": git_commit(),
    }


def summary_text(summary: dict) -> str:
    """Return the summary as it is printed at the end of a run."""
    lines = [f"overrides        {' '.join(summary['overrides'])}"] if summary["overrides"] else []
    part = "some batches" if "fast_dev_run" in summary else "whole split"
    lines += [
        f"validation loss  {summary['val_loss']:.4f} nats per token, {summary['val_bits_per_byte']:.4f} bits per byte "
        f"({part}, best of the run: step {summary['best_step']} of {summary['steps']})",
        f"time             {summary['wall_seconds']:.0f} s, {summary['tokens_per_second']:,.0f} tokens per second",
    ]
    if summary["sample"]:
        lines += ["sample", *(f"    {line}" for line in summary["sample"].splitlines())]
    lines += [f"attention maps   {path}" for path in summary["attention"]]
    lines += [f"attention page   {summary['attention_page']}"] if summary["attention_page"] else []
    lines += [f"W&B              {summary['wandb']}"] if summary["wandb"] else []
    lines += [f"loss curve       {summary['run_dir']}/loss.png", f"checkpoint       {summary['checkpoint']}"]
    return "\n".join(lines)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a result depends on."""
    names = ("headwise", "torch", "lightning", "tokenizers", "numpy")
    return {"python": sys.version.split()[0]} | {name: version(name) for name in names}


def git_commit() -> str | None:
    """Return the commit of the checkout that the code runs from, or None for an installed package."""
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return None
    try:
        result = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False)
    except FileNotFoundError:  # no git on this machine
        return None
    return result.stdout.strip() or None
