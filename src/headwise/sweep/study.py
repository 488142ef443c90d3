"""The search: Optuna proposes, this process trains, and any number of processes share one journal.

    search(config)    # of configs/sweep.yaml, inside Hydra's job; scripts/sweep.py

A trial is proposed and claimed under one lock, and its process holds another lock as long as it lives. So a trial whose
process was killed is known by its lock that nobody holds, and the next process goes on with it, from its last
checkpoint: none is lost, none is done twice, whatever was killed and whenever. What is proposed depends on the
sampler's seed, the trial's number and the trials before it, not on which process asks.
"""

from __future__ import annotations

import math
import os
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import hydra
import lightning as L
import numpy as np
import optuna
from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.callbacks import Checkpoint
from omegaconf import DictConfig, OmegaConf
from optuna.pruners import BasePruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from headwise.config import SearchConfig, SweepConfig, TrainConfig
from headwise.config_errors import composition_error, task_error
from headwise.console import say
from headwise.data import prepare
from headwise.errors import Pruned, RunError, UserError, choose, require
from headwise.files import path_of
from headwise.sweep.multirun import ENDED, note_end, quoted
from headwise.sweep.report import report, write_csv
from headwise.sweep.rows import Row, rows_of, short
from headwise.sweep.space import Dimension, Plain, combinations, grid, keys_of, read_space
from headwise.training.lightning_module import TrainingModule
from headwise.training.metrics import losses
from headwise.training.train import RunInfo, check, info_of_job, silence_lightning, train

N_TRIALS = 20
STARTS = 3  # a trial whose process died so many times is given up
FREE = ("run_dir", "threads", "sweep.n_trials", "sweep.n_jobs", "sweep.storage")  # what a resumed sweep may change
PRUNERS = ("halving", "none")
OVER = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


def tpe(seed: int) -> BaseSampler:
    """Tree-structured Parzen estimator; trials that are running count as bad, so that processes do not ask the same."""
    return TPESampler(seed=seed, multivariate=True, constant_liar=True)


SAMPLERS = {"tpe": tpe, "random": RandomSampler, "grid": RandomSampler}  # of grid the trials are all queued


class Lock:
    """The journal's lock as one that the system lets go when its process dies."""

    def __init__(self, path: Path):
        self.lock = FileLock(path)

    def acquire(self) -> bool:
        self.lock.acquire()
        return True

    def release(self) -> None:
        self.lock.release()


class Reporter(Checkpoint):
    """Tells the study each validation loss, and ends the run where the pruner says so. As one of Lightning's checkpoint
    callbacks it comes after the run's own, so what it ends has been saved."""

    def __init__(self, trial: Trial, metrics: Path):
        self.trial, self.metrics = trial, metrics
        self.told = set(trial.study._storage.get_trial(trial._trial_id).intermediate_values)

    def tell(self, step: int, loss: float) -> None:
        """Report a validation, once."""
        if step not in self.told:
            self.told.add(step)
            self.trial.report(loss, step)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """What an interrupted run had saved and could not tell any more."""
        for step, loss in losses(self.metrics)["val"]:
            self.tell(step, loss)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, TrainingModule)
        self.tell(trainer.global_step, pl_module.val_loss)
        if trainer.global_step < trainer.max_steps and self.trial.should_prune():
            raise Pruned(f"at step {trainer.global_step} of {trainer.max_steps}")


@dataclass
class Claim:
    """A trial that this process has taken on."""

    trial: Trial
    overrides: list[str]  # of this trial alone
    lock: FileLock


@dataclass
class Sweep:
    """One sweep's study and folder, as this process sees them."""

    study: Study
    wanted: SearchConfig
    space: list[Dimension]
    points: list[dict[str, Plain]] | None  # of a grid
    given: list[str]  # overrides that every trial gets
    folder: Path
    journal: Path

    @property
    def total(self) -> int:
        """How many trials there are to be."""
        whole = len(self.points) if self.points is not None else None
        asked = self.wanted.n_trials or whole or N_TRIALS
        return asked if whole is None else min(asked, whole)

    def claim(self) -> Claim | None:
        """The next trial to train: one whose process has died, else a new one; None when there is none left."""
        with FileLock(f"{self.journal}.claims"):
            mend(self.journal)
            trials = self.study.get_trials(deepcopy=False)
            for one in trials:
                if one.state == TrialState.RUNNING and (claim := self.adopt(one)):
                    return claim
            waiting = any(one.state == TrialState.WAITING for one in trials)
            if len(trials) >= self.total and not waiting:
                return None
            number = len(trials) - waiting
            if self.points is not None and not waiting:
                self.study.enqueue_trial(self.points[number])
            self.study.sampler = self.sampler(number)
            trial = self.study.ask()
            lock = self.running(trial.number)
            lock.acquire(timeout=0)
            return self.taken(trial, lock)

    def sampler(self, number: int) -> BaseSampler:
        """What proposes a trial, seeded by its number."""
        seed = np.random.SeedSequence((self.wanted.seed, number)).generate_state(1)[0]
        return SAMPLERS[self.wanted.sampler](int(seed))

    def adopt(self, one: FrozenTrial) -> Claim | None:
        """Take over a trial, if its process is dead."""
        lock = self.running(one.number)
        try:
            lock.acquire(timeout=0)
        except Timeout:  # it lives
            return None
        self.study.sampler = self.sampler(one.number)  # it may have been killed before anything was proposed
        trial = Trial(self.study, one._trial_id)
        if one.user_attrs.get("starts", 0) >= STARTS:
            self.fail(trial, one.user_attrs.get("overrides", []), f"its process died {STARTS} times")
            lock.release()
            return None
        return self.taken(trial, lock)

    def taken(self, trial: Trial, lock: FileLock) -> Claim:
        """A claim with its overrides, which a trial that was interrupted keeps."""
        overrides = [override for one in self.space for override in one.suggest(trial)]
        trial.set_user_attr("overrides", overrides)
        trial.set_user_attr("process", f"{os.getpid()} on {platform.node()}")
        trial.set_user_attr("starts", trial.user_attrs.get("starts", 0) + 1)
        return Claim(trial, overrides, lock)

    def running(self, number: int) -> FileLock:
        """The lock that a trial's process holds."""
        folder = Path(f"{self.journal}.running")
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / str(number))

    def fail(self, trial: Trial, overrides: list[str], why: str, code: int | None = None) -> None:
        """Record that a trial failed, and why."""
        trial.set_user_attr("why", why)
        self.study.tell(trial, state=TrialState.FAIL)
        note_end(self.folder / str(trial.number), [*self.given, *overrides], "failed", why, code)
        print(f"error: trial {trial.number}: {why}", file=sys.stderr)

    def run(self, claim: Claim) -> None:
        """Train a trial, and tell the study what came of it. Whatever fails but the disk is recorded and survived."""
        trial, overrides = claim.trial, claim.overrides
        folder = self.folder / str(trial.number)
        (folder / ENDED).unlink(missing_ok=True)
        name = f"{trial.number} {' '.join(map(short, overrides))}"
        place = RunInfo(folder, [*self.given, *overrides], "", self.folder.name, name)
        resume = ["resume=auto"] if (folder / "config.yaml").exists() else []
        reporter = Reporter(trial, folder / "metrics.csv")
        config = DictConfig({})
        try:
            config = composed([*place.overrides, *resume], folder)
            summary = train(config, place, [reporter])
            assert summary is not None
            require(math.isfinite(summary["val_loss"]), f"the validation loss is {summary['val_loss']}")
            self.study.tell(trial, summary["val_loss"])
        except Pruned as stop:
            self.study.tell(trial, state=TrialState.PRUNED)
            note_end(folder, place.overrides, "pruned", str(stop))
        except OSError:  # a full disk would fail all that follow
            raise
        except Exception as error:
            line, code = task_error(error, config)
            if code is None:
                traceback.print_exc()
            self.fail(trial, overrides, line, code)
        except (KeyboardInterrupt, SystemExit):  # asked for, so no sign of a trial that kills its process
            trial.set_user_attr("starts", trial.user_attrs["starts"] - 1)
            raise
        finally:
            claim.lock.release()

    def rows(self) -> list[Row]:
        """A row for each trial: as its folder tells it, or where that is elsewhere as the study does."""
        found = {row.number: row for row in rows_of(self.folder)}
        for one in self.study.get_trials(deepcopy=False):
            if one.number not in found and one.state != TrialState.WAITING:
                overrides = [*self.given, *one.user_attrs.get("overrides", [])]
                why, state = one.user_attrs.get("why", ""), name_of(one.state)
                value = one.value if one.value is not None else math.nan
                found[one.number] = Row(one.number, None, overrides, state, value, one.last_step or 0, why=why)
            elif one.state == TrialState.RUNNING:
                found[one.number].state = "running"
        return [found[number] for number in sorted(found)]

    def progress(self, trial: Trial, began: float) -> None:
        """What has just come of a trial, how far the sweep is, and how long it may take."""
        trials = self.study.get_trials(deepcopy=False)
        over = [one for one in trials if one.state in OVER]
        this = next(one for one in trials if one.number == trial.number)
        done = [one for one in trials if one.state == TrialState.COMPLETE]
        took = [one.duration.total_seconds() for one in over if one.duration]
        here = sum(one.state == TrialState.RUNNING for one in trials) + 1
        left = (self.total - len(over)) * sum(took) / max(1, len(took)) / here
        value = f", loss {this.value:.4f}" if this.value is not None else ""
        line = f"trial {trial.number}: {name_of(this.state)}{value}, {time.monotonic() - began:.0f} s; "
        line += f"{len(over)} of {self.total} trials"
        if done:
            best = min(done, key=lambda one: one.value or math.inf)
            line += f", best {best.value:.4f} in {best.number}"
        say(line + (f"; about {left:.0f} s left" if left else ""))


def search(config: DictConfig) -> None:
    """Run the sweep that the configuration describes, go on with it, or take part in it. Raises UserError."""
    silence_lightning()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    typed = OmegaConf.to_object(config)
    assert isinstance(typed, SweepConfig)
    wanted, folder = typed.sweep, info_of_job().folder
    space = read_space(wanted.space)
    size = combinations(space)
    few = size is not None and size <= (wanted.n_trials or N_TRIALS)
    points = grid(space) if wanted.sampler == "grid" or few else None
    choose("sweep.sampler", wanted.sampler, SAMPLERS)
    choose("sweep.pruner", wanted.pruner, dict.fromkeys(PRUNERS))
    given = [override for override in HydraConfig.get().overrides.task if not of_sweep(override)]
    varied = [key for one in space for key in keys_of(one)]
    for override in given:
        key = override.lstrip("+~").split("=")[0]
        require(key not in varied, f"{override}: sweep.space varies {key}; leave one of them out")
    grid_there = (folder / "multirun.yaml").exists()
    require(not grid_there, f"run_dir={folder} holds the runs of train.py -m; give another run_dir")
    try_out(space, given, folder)
    journal = path_of(wanted.storage, "sweep.storage") if wanted.storage else folder / "study" / "journal.log"
    require(not journal.is_dir(), f"sweep.storage={wanted.storage} is a folder; give a file's name")
    journal.parent.mkdir(parents=True, exist_ok=True)
    study = open_study(journal, pruner(wanted, typed), config, folder)
    sweep = Sweep(study, wanted, space, points, given, folder, journal)
    how = "every combination" if points else f"sampler {wanted.sampler}"
    say(f"{sweep.total} trials of {', '.join(varied)} in {folder}; {how}, pruner {wanted.pruner}")
    over = sum(one.state in OVER for one in study.get_trials(deepcopy=False))
    if over:
        say(f"{over} of {sweep.total} trials are done; going on")
    try:
        with helpers(wanted.n_jobs - 1, folder):
            while claim := sweep.claim():
                began = time.monotonic()
                say(f"trial {claim.trial.number}: {' '.join(claim.overrides)}")
                sweep.run(claim)
                sweep.progress(claim.trial, began)
                write_csv(folder / "sweep.csv", sweep.rows(), varied)
    except (KeyboardInterrupt, SystemExit):
        say(f"interrupted; the same command with run_dir={folder} goes on where it stood")
        raise
    if not wanted.n_jobs:
        return
    rows = sweep.rows()
    report(folder, rows, varied)
    if rows and all(row.state == "failed" for row in rows):
        raise RunError(f"all {len(rows)} trials failed; trial {rows[0].number}: {rows[0].why}")


def name_of(state: TrialState) -> str:
    """A trial's state as the table names it."""
    return "failed" if state == TrialState.FAIL else state.name.lower()


def of_sweep(override: str) -> bool:
    """Whether an override is about the sweep itself rather than its runs."""
    key = override.lstrip("+~").split("=")[0]
    return key in ("sweep", "run_dir") or key.startswith("sweep.")


def composed(overrides: list[str], folder: Path) -> DictConfig:
    """A run's configuration. Raises UserError."""
    try:
        return hydra.compose("train", [*overrides, f"run_dir={quoted(str(folder))}"])
    except Exception as error:  # Hydra has many; all of them are about an override
        raise UserError(composition_error(error, TrainConfig, overrides)) from error


def try_out(space: list[Dimension], given: list[str], folder: Path) -> None:
    """Raise UserError for what can be known to be wrong before any trial: an end of a range, or a choice, that its key
    does not take, or that cannot be trained with the first of all others nor with the last."""
    config = TrainConfig()
    corners = [[one.ends()[i] for one in space] for i in (0, -1)]
    for place, one in enumerate(space):
        for end in one.ends():
            wrong: list[UserError] = []
            for corner in corners:
                overrides = [o for part in (*corner[:place], end, *corner[place + 1 :]) for o in part]
                try:
                    config = cast(TrainConfig, OmegaConf.to_object(composed([*given, *overrides], folder)))
                    alone = check(config).count == 1
                    require(alone, f"trainer.devices={config.trainer.devices}: a trial of a sweep trains on one device")
                    break
                except UserError as error:
                    wrong.append(error)
            else:
                raise wrong[0]
    if not config.init_from:  # whose tokenizer it would be
        prepare.prepare(config.data, config.tokenizer)


def open_study(journal: Path, with_pruner: BasePruner, config: DictConfig, folder: Path) -> Study:
    """The study in the journal, new or as it was left. Raises UserError if it is another sweep's, or no journal."""
    now = {key: value for key, value in flat(OmegaConf.to_container(config, resolve=True)) if not free(key)}
    where = f"run_dir={folder} holds another sweep"
    with FileLock(f"{journal}.claims"):
        mend(journal)
        try:
            backend = JournalFileBackend(str(journal), lock_obj=Lock(Path(f"{journal}.lock")))  # type: ignore[arg-type]
            storage = JournalStorage(backend)
            there = storage.get_all_studies()
            start = optuna.load_study if there else optuna.create_study
            study = start(study_name="sweep", storage=storage, pruner=with_pruner)
        except (ValueError, KeyError) as error:
            raise UserError(f"{journal} cannot be read as the journal of a sweep; move it away") from error
        was = study.user_attrs.get("config", now)
        for key in sorted(was.keys() | now.keys()):
            before, after = was.get(key), now.get(key)
            require(before == after, f"{key}={after} differs from {before}: {where}; give another run_dir")
        if "config" not in study.user_attrs:
            study.set_user_attr("config", now)
    return study


def flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested groups as dotted keys; lists are values."""
    if isinstance(value, dict):
        for key, child in value.items():
            yield from flat(child, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def free(key: str) -> bool:
    """Whether a resumed sweep may have another value."""
    return key in FREE or key.startswith("logger.")


def mend(journal: Path) -> None:
    """Cut off a line whose writing was cut short, which Optuna would stumble over once another follows."""
    with FileLock(f"{journal}.lock"):
        if journal.exists() and (text := journal.read_bytes()) and not text.endswith(b"\n"):
            os.truncate(journal, text.rfind(b"\n") + 1)


def pruner(wanted: SearchConfig, config: TrainConfig) -> BasePruner:
    """What ends trials early: at each rung, the best of those that came so far go on (Li et al. 2020, ASHA)."""
    if wanted.pruner == "none":
        return NopPruner()
    first = wanted.min_steps or config.trainer.val_check_interval
    return SuccessiveHalvingPruner(min_resource=first, reduction_factor=wanted.reduction_factor)


@contextmanager
def helpers(count: int, folder: Path) -> Iterator[None]:
    """Further processes that take part, for the length of a `with` block."""
    command = [sys.executable, *sys.argv, f"run_dir={quoted(str(folder))}", "sweep.n_jobs=0"]
    if count > 0:
        os.environ["TTY_COMPATIBLE"] = "0"  # several bars in one terminal would overwrite each other
    started = [subprocess.Popen(command, stdin=subprocess.DEVNULL) for _ in range(count)]
    try:
        yield
        for one in started:
            one.wait()
    finally:
        for one in started:
            one.terminate()  # as Ctrl-C has done where it came from a terminal
            one.wait()
