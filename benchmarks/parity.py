"""Compare this checkout with version 0.1: same losses, same head scores and same greedy text, to the last digit. And
compare their speed.

    python benchmarks/parity.py                                    # fetches Tiny Shakespeare
    python benchmarks/parity.py --shakespeare path/to/tinyshakespeare.txt
    python benchmarks/parity.py --speed 5                          # time instead, in five interleaved rounds

Each case trains 60 steps with both versions, on the same threads and seed. Version 0.1 (commit 3034357) runs from a
temporary worktree, with the names that it knew. Valid for the commit that closes the redesign; later changes of
defaults:

    none yet
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parents[1]
OLD = "3034357"
STEPS = ["trainer.max_steps=60", "trainer.val_check_interval=30", "trainer.log_every_n_steps=1", "threads=2"]
QUIET = ["logger=none", "callbacks.samples.every_n_steps=null", "callbacks.attention.every_n_steps=30"]
CASES = {
    "quickstart": [],
    "shakespeare_cpu": ["experiment=shakespeare_cpu"],
    "induction": ["experiment=induction"],
    "GPT-2, AdamW": ["model=gpt2", "optimizer=adamw"],
    "dropout, accumulation": ["model.dropout=0.1", "data.batch_size=4", "data.global_batch_size=8"],
}
OLD_NAMES = {"model=gpt2": "model=classic", "model=qwen3": "model=modern"}  # overrides of the cases, as 0.1 spells them
NEW_COLUMNS = {"probe": "input", "ablation": "mean_ablation"}  # columns of 0.1 -> today's


def run(root: Path, script: str, *args: str, cwd: Path) -> str:
    """Run a script of one of the two versions and return its standard output."""
    command = [sys.executable, str(root / "scripts" / f"{script}.py"), *args]
    environment = os.environ | {"PYTHONPATH": str(root / "src")}
    result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"{' '.join(command)}\n{result.stderr}")
    return result.stdout


def columns(file: Path, names: list[str] | None = None) -> list[dict[str, str]]:
    """Return the rows of a CSV file under today's column names, of these columns or all."""
    with file.open(newline="", encoding="utf-8") as lines:
        rows = [{NEW_COLUMNS.get(name, name): cell for name, cell in row.items()} for row in csv.DictReader(lines)]
    return [{name: row[name] for name in names or sorted(row)} for row in rows]


def compare(old: Path, work: Path, name: str, overrides: list[str]) -> bool:
    """Train one case with both versions, print what agrees, and return whether all does."""
    folders = {}
    for version, root in (("old", old), ("new", ROOT)):
        given = [OLD_NAMES.get(o, o) for o in overrides] if version == "old" else overrides
        folders[version] = work / f"{version}_{name.replace(' ', '_').replace(',', '')}"
        run(root, "train", *given, *STEPS, *QUIET, f"run_dir={folders[version]}", cwd=work)
    losses, heads = (
        [columns(folders[version] / file, names) for version in ("old", "new")]
        for file, names in (("metrics.csv", ["step", "train_loss", "val_loss"]), ("attention/heads.csv", None))
    )
    checkpoint = str(folders["old"] / "checkpoints" / "last.ckpt")
    flags = ["--checkpoint", checkpoint, "--prompt", "The", "--greedy", "--max-new-tokens", "100"]
    texts = [run(root, "generate", *flags, cwd=work) for root in (old, ROOT)]
    same = [losses[0] == losses[1], heads[0] == heads[1], len(set(texts)) == 1]
    words = ["same" if each else "DIFFERENT" for each in same]
    print(f"| {name} | {len(losses[0])} rows: {words[0]} | {len(heads[0])} rows: {words[1]} | {words[2]} |", flush=True)
    return all(same)


def time_once(root: Path, folder: Path, steps: int) -> dict[str, float]:
    """Return the seconds of one version for --help, a quickstart run, one of its steps, and a first token."""
    work, times = folder.parent, {}
    began = time.perf_counter()
    run(root, "train", "--help", cwd=work)
    times["train --help"] = time.perf_counter() - began
    began = time.perf_counter()
    given = [f"trainer.max_steps={steps}"] if steps else []
    run(root, "train", *given, "threads=2", "trainer.log_every_n_steps=10", f"run_dir={folder}", cwd=work)
    times["whole run"] = time.perf_counter() - began
    seconds = [float(row["seconds"]) for row in columns(folder / "metrics.csv", ["seconds"])]
    times["ten steps"] = statistics.median(b - a for a, b in pairwise(seconds[1:]))
    began = time.perf_counter()
    flags = ["--checkpoint", str(folder), "--prompt", "The", "--max-new-tokens", "200", "--json"]
    output = json.loads(run(root, "generate", *flags, cwd=work))
    times["whole generate command"] = time.perf_counter() - began
    return times | {"first token": output["first_token_seconds"], "a token": 1 / output["tokens_per_second"]}


def speed(old: Path, work: Path, rounds: int, steps: int) -> None:
    """Print the median over the rounds of each time, and of the ratio within a round, in which the versions take turns
    at being first."""
    times: dict[str, list[dict[str, float]]] = {"old": [], "new": []}
    for number in range(rounds):
        versions = [("old", old), ("new", ROOT)]
        for name, root in versions if number % 2 == 0 else reversed(versions):
            times[name].append(time_once(root, work / f"{name}_{number}", steps))
            print(f"round {number + 1} of {rounds}: {name}", file=sys.stderr, flush=True)
    print("| | 0.1 | this checkout | ratio |\n|---|---|---|---|")
    for what in times["old"][0]:
        before, after = ([one[what] for one in times[name]] for name in ("old", "new"))
        ratio = statistics.median(b / a for a, b in zip(before, after, strict=True))
        cells = [f"{1e3 * statistics.median(each):,.1f} ms" for each in (before, after)]
        print(f"| {what} | {' | '.join(cells)} | {ratio:.3f} |")


def main() -> None:
    """Compare all cases, and exit with 1 where anything differs; or with --speed print times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shakespeare", type=Path, help="a copy of tinyshakespeare.txt")
    parser.add_argument("--speed", type=int, metavar="ROUNDS", help="print how long both versions take")
    parser.add_argument("--steps", type=int, default=300, help="of each run, with --speed; 0: the whole quickstart")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        old, work = Path(temporary) / "version_0.1", Path(temporary) / "work"
        work.mkdir()
        subprocess.run(["git", "worktree", "add", "-q", "--detach", str(old), OLD], cwd=ROOT, check=True)
        try:
            if flags.speed:
                speed(old, work, flags.speed, flags.steps)
                return
            print("| case | losses | head scores | greedy text |\n|---|---|---|---|", flush=True)
            same = True
            for name, overrides in CASES.items():
                text = [f"data.path={flags.shakespeare.absolute()}"] if flags.shakespeare and "shake" in name else []
                same = compare(old, work, name, overrides + text) and same
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(old)], cwd=ROOT, check=True)
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
