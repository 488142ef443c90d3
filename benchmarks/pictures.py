"""Redraw maps.png, previous_token.png, induction.png and example.png of the documents with the present code.

    python benchmarks/pictures.py [--output DIR] [key=value ...]

Trains the quickstart and `experiment=induction` in a temporary folder, which takes about three minutes on two CPU
cores. Further arguments are overrides for both runs.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
RUNS = {  # overrides of a run -> {picture: the last file of this name in the run's folder attention/}
    "experiment=quickstart": {"maps.png": "maps_text_step_*.png"},
    "experiment=induction": {
        "previous_token.png": "timeline_previous_token.png",
        "induction.png": "timeline_induction.png",
    },
}
EXAMPLE = ["--checkpoint", "docs/example", "--prompt", "The lions were scared of the kids."]


def run_script(name: str, *arguments: str) -> None:
    """Run a script in the project's folder. Raise CalledProcessError if it fails."""
    command = [sys.executable, f"scripts/{name}.py", *arguments]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    """Train, and copy the pictures."""
    parser = argparse.ArgumentParser(description="Redraw the pictures of the documents.")
    parser.add_argument("--output", type=Path, default=ROOT / "docs", help="the folder of the pictures; default: docs")
    parser.add_argument("overrides", nargs="*", help="overrides for both runs")
    flags = parser.parse_args()
    output = flags.output.resolve()
    for overrides, pictures in RUNS.items():
        with tempfile.TemporaryDirectory() as folder:
            run_script("train", overrides, f"run_dir={folder}/run", "logger=none", *flags.overrides)
            for picture, pattern in pictures.items():
                shutil.copyfile(sorted(Path(folder).glob(f"run/attention/{pattern}"))[-1], output / picture)
    run_script("attention", *EXAMPLE, "--png", str(output / "example.png"))


if __name__ == "__main__":
    main()
