"""The Optuna study of a sweep, in a journal file from which any number of processes take trials.

    shared = open_study(journal, config, space, points)
    while claimed := shared.claim():
        ...                                                 # train, then shared.study.tell(claimed.trial, loss)
        claimed.lock.release()

A process proposes a trial under one lock, and holds the trial's own lock until it has trained it. The system releases
the locks of a process that dies. So a trial that is running while its lock is free was killed, and the next process
continues it from its last checkpoint; no trial is lost or trained twice. (Optuna's heartbeat needs an SQL database,
notices a killed process only after a while, and repeats its trial from the start under a new number.)
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

import numpy as np
import optuna
from filelock import FileLock, Timeout
from optuna.pruners import BasePruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from headwise.config import SearchConfig, SweepConfig
from headwise.config_keys import schema_fields
from headwise.errors import UserError, require
from headwise.sweep.space import Dimension, Plain

N_TRIALS = 20
# What may differ when a sweep is resumed: keys, and beginnings of keys.
CHANGEABLE = ("run_dir", "threads", "sweep.n_trials", "sweep.n_jobs", "sweep.storage", "logger.")


def tpe(seed: int) -> BaseSampler:
    """Return the tree-structured Parzen estimator. It counts running trials as bad ones (`constant_liar`), so that
    several processes do not propose the same."""
    return TPESampler(seed=seed, multivariate=True, constant_liar=True)


def halving(config: SweepConfig) -> BasePruner:
    """Return the pruner that lets the best part of the trials at each rung continue (ASHA, Li et al. 2020)."""
    first = config.sweep.min_steps or config.trainer.val_check_interval
    return SuccessiveHalvingPruner(min_resource=first, reduction_factor=config.sweep.reduction_factor)


# All trials of a grid are enqueued, so that its sampler draws nothing.
SAMPLERS = {"tpe": tpe, "random": RandomSampler, "grid": RandomSampler}
PRUNERS = {"halving": halving, "none": lambda config: NopPruner()}


@dataclass
class ClaimedTrial:
    """A trial that this process trains. No other process takes it as long as `lock` is held."""

    trial: Trial
    overrides: list[str]  # of this trial alone
    lock: FileLock


@dataclass
class SharedStudy:
    """The study as this process sees it."""

    study: Study
    journal: Path
    config: SearchConfig
    space: list[Dimension]
    n_trials: int  # of the whole sweep
    is_grid: bool  # whether they are every combination

    def trials(self) -> list[FrozenTrial]:
        """Return the trials so far, in the order of their numbers."""
        return self.study.get_trials(deepcopy=False)

    def claim(self) -> ClaimedTrial | None:
        """Return the next trial to train: one whose process was killed, else a new one; None if there is none left."""
        with FileLock(f"{self.journal}.claims"):
            cut_incomplete_line(self.journal)
            begun = [trial for trial in self.trials() if trial.state != TrialState.WAITING]
            for one in begun:
                if one.state == TrialState.RUNNING and (lock := self.lock(one.number)):
                    self.study.sampler = self.sampler(one.number)  # in case that it was killed before the proposal
                    # Nothing public continues a running trial. test_running_trial_can_be_reopened fails if this moves.
                    return self.start(Trial(self.study, one._trial_id), lock)
            if len(begun) >= self.n_trials:
                return None
            self.study.sampler = self.sampler(len(begun))
            trial = self.study.ask()  # of a grid, the first that waits
            lock = self.lock(trial.number)
            assert lock is not None, f"trial {trial.number} is new and yet locked"
            return self.start(trial, lock)

    def sampler(self, number: int) -> BaseSampler:
        """Return the sampler for a trial. Its seed depends on the trial's number, not on the process that asks."""
        seed = np.random.SeedSequence((self.config.seed, number)).generate_state(1)[0]
        return SAMPLERS[self.config.sampler](int(seed))

    def lock(self, number: int) -> FileLock | None:
        """Acquire a trial's lock and return it; None if the process that holds it is alive."""
        folder = Path(f"{self.journal}.running")
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / str(number))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return None
        return lock

    def start(self, trial: Trial, lock: FileLock) -> ClaimedTrial:
        """Draw the trial's values, unless it has them already, and record that this process starts it."""
        overrides = [override for dimension in self.space for override in dimension.suggest(trial)]
        trial.set_user_attr("overrides", overrides)
        trial.set_user_attr("process", f"{os.getpid()} on {platform.node()}")
        trial.set_user_attr("starts", trial.user_attrs.get("starts", 0) + 1)
        return ClaimedTrial(trial, overrides, lock)


def open_study(
    journal: Path, config: SweepConfig, space: list[Dimension], points: list[dict[str, Plain]] | None
) -> SharedStudy:
    """Open the study in a journal, or create both, with a waiting trial for each of a grid's `points`. Raise UserError
    for another sweep's journal and for other files."""
    now = {key: attrgetter(key)(config) for key, _ in schema_fields(config) if not key.startswith(CHANGEABLE)}
    unreadable = f"{journal} cannot be read as the journal of a sweep; move it away"
    another = f"run_dir={config.run_dir} holds another sweep; give another run_dir"
    with FileLock(f"{journal}.claims"):
        first = journal.read_bytes()[:11] if journal.exists() else b""
        require(b'{"op_code":'.startswith(first), unreadable)  # before Optuna adds to a file of another kind
        cut_incomplete_line(journal)
        try:
            # Optuna's own locks outlive a killed process. A FileLock has the two methods that Optuna calls.
            backend = JournalFileBackend(str(journal), lock_obj=FileLock(f"{journal}.lock"))  # type: ignore[arg-type]
            storage = JournalStorage(backend)
            start = optuna.load_study if optuna.get_all_study_names(storage) else optuna.create_study
            study = start(study_name="sweep", storage=storage, pruner=PRUNERS[config.sweep.pruner](config))
        except (ValueError, KeyError) as error:
            raise UserError(unreadable) from error
        saved = study.user_attrs.get("config", now)
        for key in sorted(saved.keys() | now.keys()):
            before, after = saved.get(key), now.get(key)
            require(before == after, f"{key}={after} differs from {before}: {another}")
        if "config" not in study.user_attrs:
            study.set_user_attr("config", now)
        n_trials = config.sweep.n_trials or (N_TRIALS if points is None else len(points))
        if points is not None:
            n_trials = min(n_trials, len(points))
            for point in points[len(study.trials) : n_trials]:
                study.enqueue_trial(point)
    return SharedStudy(study, journal, config.sweep, space, n_trials, points is not None)


def cut_incomplete_line(journal: Path) -> None:
    """Remove the last line if its process was killed while it wrote; Optuna could not read the lines after it."""
    with FileLock(f"{journal}.lock"):
        if journal.exists() and (text := journal.read_bytes()) and not text.endswith(b"\n"):
            os.truncate(journal, text.rfind(b"\n") + 1)
