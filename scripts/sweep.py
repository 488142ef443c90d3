"""Search for the configuration that learns best: many trainings, of which the worst are ended early.

  python scripts/sweep.py                                   the quickstart's learning rates, 20 trials
  python scripts/sweep.py sweep=heads experiment=induction  a ready space; any override of train.py, for every trial
  python scripts/sweep.py sweep=own 'sweep.space={optimizer.lr: {low: 1e-4, high: 1e-2, log: true}, seed: [1, 2]}'
                                                            a space of your own
  python scripts/sweep.py sweep.n_trials=50 sweep.n_jobs=2 threads=1
                                                            two trials at a time
  python scripts/sweep.py run_dir=PATH ...                  goes on where the sweep in PATH stood; at the same time from
                                                            another terminal or machine, it takes part

Trials go to run_dir's folders 0, 1, 2, ..., and what they came to into sweep.csv and sweep.html beside them.
"""

import sys
from importlib.util import find_spec

from omegaconf import DictConfig

from headwise.console import say
from headwise.errors import require
from headwise.launch import launch


def main(config: DictConfig) -> None:
    missing = find_spec("optuna") is None
    require(not missing, "a sweep needs the package optuna: pip install -e '.[sweep]'")
    if sys.stderr.isatty():
        say("loading torch, lightning and optuna, a few seconds")
    from headwise.sweep.study import search

    search(config)


if __name__ == "__main__":
    launch(main, "sweep", __doc__ or "")
