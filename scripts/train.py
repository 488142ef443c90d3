"""Train a GPT and watch its attention.

  python scripts/train.py                                   the quickstart: built-in text, about two minutes
  python scripts/train.py data=files data.path=my.txt       your own text
  python scripts/train.py model=gpt2 model.n_layer=6     another model
  python scripts/train.py experiment=finetune init_from=gpt2 data=files data.path=my.txt
                                                            an imported model, trained on
  python scripts/train.py trainer.max_steps=500 seed=1      any key below, as key=value
  python scripts/train.py resume=auto                       go on with the newest run of the experiment
  python scripts/train.py -m model.n_layer=2,4              every combination, one after the other
  python scripts/train.py -m hydra/launcher=joblib threads=1 seed=1,2
                                                            two at a time; hydra/launcher=slurm: on a cluster

Results go to run_dir, by default runs/<experiment>/<date>_<time>; those of -m to its folders 0, 1, 2, ..., with
sweep.csv and sweep.html, which compare them, beside them.
"""

import sys
from pathlib import Path

from omegaconf import DictConfig

from headwise.console import say
from headwise.launch import launch


def main(config: DictConfig) -> None:
    if sys.stderr.isatty():
        say("loading torch and lightning, a few seconds")
    from headwise.training.summary import report
    from headwise.training.train import train

    summary = train(config)
    if summary:
        print(report(summary))


def report_sweep(folder: Path) -> None:
    from headwise.sweep.report import report_grid

    report_grid(folder)


if __name__ == "__main__":
    launch(main, "train", __doc__ or "", after=report_sweep)
