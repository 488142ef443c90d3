"""Sweeps of models that train in a second, and their tables."""

import csv
import subprocess
import sys

from tests.small import ROOT, script_here

TINIEST = [
    *("model.n_layer=1", "model.n_head=2", "model.n_embd=8", "model.block_size=16", "data.batch_size=2"),
    *("data.val_tokens=500", "trainer.max_steps=6", "trainer.val_check_interval=2", "schedule.warmup_steps=1"),
    *("logger=none", "callbacks.samples.every_n_steps=null", "callbacks.attention.every_n_steps=null", "threads=1"),
]
NASTY = "<script>alert('$x$')</script>"  # as a value: it must be shown, not run


def sweep_here(cwd, run_dir, *overrides, ok=True):
    """Run scripts/sweep.py in this process."""
    return script_here("sweep", *TINIEST, f"run_dir={run_dir}", *overrides, cwd=cwd, ok=ok)


def start_sweep(cwd, run_dir, *overrides):
    """Start scripts/sweep.py in another process, which can be interrupted."""
    command = [sys.executable, ROOT / "scripts/sweep.py", *TINIEST, f"run_dir={run_dir}", *overrides]
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def table(folder):
    """Return the rows of sweep.csv."""
    with (folder / "sweep.csv").open() as file:
        return list(csv.DictReader(file))
