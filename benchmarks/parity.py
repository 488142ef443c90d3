"""Compare this checkout with version 0.1: same losses, same head scores and same greedy text, to the last digit.

    python benchmarks/parity.py                                    # fetches Tiny Shakespeare
    python benchmarks/parity.py --shakespeare path/to/tinyshakespeare.txt

Each case trains 60 steps with both versions, on the same threads and seed. Version 0.1 (commit 3034357) runs from a
temporary worktree, with the names that it knew. Valid for the commit that closes the redesign; later changes of
defaults:

    none yet
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
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


def main() -> None:
    """Compare all cases; exit with 1 where anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shakespeare", type=Path, help="a copy of tinyshakespeare.txt")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        old, work = Path(temporary) / "version_0.1", Path(temporary) / "work"
        work.mkdir()
        subprocess.run(["git", "worktree", "add", "-q", "--detach", str(old), OLD], cwd=ROOT, check=True)
        try:
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
