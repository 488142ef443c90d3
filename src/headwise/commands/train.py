"""Train a GPT and record its attention.

  headwise train                                   the quickstart: built-in text, about two minutes
  headwise train data=files data.path=my.txt       your own text
  headwise train model=gpt2 model.n_layer=6        another model
  headwise train experiment=finetune init_from=gpt2 data=files data.path=my.txt
                                                   continue the training of an imported model
  headwise train trainer.max_steps=500 seed=1      set any key
  headwise train resume=auto                       continue the newest run of the experiment
  headwise train -m model.n_layer=2,4              one run for each combination
  headwise train -m hydra/launcher=joblib threads=1 seed=1,2
                                                   two runs at a time; hydra/launcher=slurm: on a cluster
  headwise train --config-dir DIR experiment=mine  with your own groups: DIR/experiment/mine.yaml

Results go to run_dir, by default runs/<experiment>/<date>_<time>. Runs of -m go to its folders 0, 1, 2, ...; sweep.csv
and sweep.html beside them compare the runs.
"""

import sys
from pathlib import Path
from typing import Any

from headwise.config import TrainConfig
from headwise.console import say
from headwise.launch import compose, launch


def main(arguments: list[str] | None = None) -> None:
    """Train with the given arguments, by default those of the command line."""
    launch(run, "train", __doc__ or "", arguments, after=report_sweep)


def run(config: TrainConfig) -> float | None:
    """Train with a configuration, print a summary, and return the validation loss, which Hydra's sweepers minimize.
    Return None if there is none: with estimate=true, and on devices other than the first."""
    if sys.stderr.isatty():
        say("loading torch and lightning, a few seconds")
    from headwise.training.summary import summary_text
    from headwise.training.train import train

    summary = train(config)
    if summary is None:
        return None
    print(summary_text(summary))
    return summary["val_loss"]


def report_sweep(folder: Path) -> None:
    """Compare the runs of a multirun."""
    from headwise.sweep.report import report_grid

    report_grid(folder)


def train(*overrides: str) -> dict[str, Any]:
    """Train in this process as `headwise train` does with these overrides, and return the contents of summary.json.

    Raise UserError for wrong overrides, and RunError if the training diverges.
    """
    from headwise.training.train import RunInfo
    from headwise.training.train import train as run_training

    config = compose("train", list(overrides))
    folder = Path(config.run_dir)
    resume_hint = f"the same call with resume=auto run_dir={folder} continues from its last checkpoint"
    return run_training(config, RunInfo(folder, list(overrides), resume_hint)) or {}
