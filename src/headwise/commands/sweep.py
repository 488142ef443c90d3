"""Search for the configuration with the lowest validation loss; unpromising trials end early.

  headwise sweep                                   the quickstart's learning rates, 20 trials
  headwise sweep sweep=heads experiment=induction  a predefined space; any override of train, for every trial
  headwise sweep sweep=own 'sweep.space={optimizer.lr: {low: 1e-4, high: 1e-2, log: true}, seed: [1, 2]}'
                                                   a space of your own
  headwise sweep sweep.n_trials=50 sweep.n_jobs=2 threads=1
                                                   two trials at a time
  headwise sweep run_dir=PATH ...                  continue the sweep in PATH, or join it from another terminal

Trials go to the folders 0, 1, 2, ... of run_dir; sweep.csv and sweep.html beside them compare the trials.
"""

import sys
from importlib.util import find_spec

from headwise.config import SweepConfig
from headwise.console import say
from headwise.errors import require
from headwise.launch import launch


def main(arguments: list[str] | None = None) -> None:
    """Search with the given arguments, by default those of the command line."""
    launch(run, "sweep", __doc__ or "", arguments)


def run(config: SweepConfig) -> None:
    """Run the trials of a configuration."""
    require(find_spec("optuna") is not None, "a sweep needs the package optuna: pip install '.[sweep]'")
    if sys.stderr.isatty():
        say("loading torch, lightning and optuna, a few seconds")
    from headwise.sweep.search import search

    search(config)
