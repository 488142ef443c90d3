"""The quickstart as a whole process, against what counting alone achieves on the same split.

    python benchmarks/quickstart.py [--data FILE] [key=value ...]

Prints a table of validation losses, with time and peak memory of the training process, hardware and date. Further
arguments are overrides for scripts/train.py.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

from hardware import processor
from ngram import losses

from headwise.config import DataConfig
from headwise.data.sources import open_text

ROOT = Path(__file__).parents[1]


def run_training(overrides: list[str]) -> tuple[dict, float]:
    """summary.json of one training run, and the peak memory of its process in MB (the run is not kept)."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "scripts/train.py"), f"run_dir={folder}/run", *overrides]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"WANDB_MODE": "offline"})
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024  # kB on Linux
        return json.loads((Path(folder) / "run/summary.json").read_text()), peak


def main() -> None:
    parser = argparse.ArgumentParser(description="The quickstart against n-gram models of the same text.")
    parser.add_argument("--data", help="a .txt file; default: the built-in text")
    parser.add_argument("overrides", nargs="*", help="overrides for scripts/train.py")
    flags = parser.parse_args()
    source = ["data=files", f'data.path="{Path(flags.data).resolve()}"'] if flags.data else []
    summary, peak = run_training([*source, *flags.overrides])
    text = open_text(DataConfig(source="files" if flags.data else "python_docs", path=flags.data))
    print(f"{processor()}, {summary['threads']} threads; Python {platform.python_version()}; {date.today()}\n")
    print("| model | validation loss, nats per character |\n|---|---|")
    for order, loss in enumerate(losses(text, 6), start=1):
        if order >= 3:
            print(f"| Witten-Bell {order}-gram | {loss:.4f} |")
    print(f"| **Headwise**, {summary['parameters']:,} parameters | **{summary['val_loss']:.4f}** |\n")
    print(
        f"Training {summary['train_seconds']:.0f} s ({summary['tokens_per_second']:,.0f} tokens per second); the whole "
        f"process {summary['wall_seconds']:.0f} s after its imports, peak memory {peak:,.0f} MB."
    )


if __name__ == "__main__":
    main()
