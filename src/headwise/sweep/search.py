"""Train the trials that Optuna proposes, and compare them at the end.

    search(config)    # of configs/sweep.yaml, inside Hydra's job: headwise sweep

The trials' runs are in the folders 0, 1, 2, ... of the sweep's folder, and the study is in study/journal.log.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import optuna
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.callbacks import Checkpoint
from optuna.trial import Trial, TrialState

from headwise.config import SweepConfig, TrainConfig
from headwise.config_errors import task_error
from headwise.console import say
from headwise.data.token_files import prepare
from headwise.errors import Pruned, RunError, UserError, choose, require
from headwise.files import expand_path
from headwise.launch import compose
from headwise.sweep.multirun import ENDED, note_end, quoted
from headwise.sweep.report import write_csv, write_report
from headwise.sweep.rows import Row, runs_in, short, split_override
from headwise.sweep.space import Dimension, combinations, grid, read_space
from headwise.sweep.study import N_TRIALS, PRUNERS, SAMPLERS, ClaimedTrial, SharedStudy, open_study
from headwise.training.lightning_module import TrainingModule
from headwise.training.metrics import read_losses
from headwise.training.train import RunInfo, devices_of_run, info_of_job, silence_lightning, train, validate_run

MAX_STARTS = 3  # a trial whose process died so many times fails


class PruningCallback(Checkpoint):
    """Callback that reports each validation loss to the study, and raises Pruned if the pruner stops the trial.
    Lightning calls checkpoint callbacks last, in their order, so that the run has saved its checkpoint before."""

    def __init__(self, trial: Trial, metrics_file: Path):
        self.trial, self.metrics_file = trial, metrics_file

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Report the losses that a killed process had written to metrics.csv and not yet reported."""
        warnings.filterwarnings("ignore", message=".*already reported")  # Optuna then keeps the first
        for step, loss in read_losses(self.metrics_file)["val"]:
            self.trial.report(loss, step)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, TrainingModule)
        self.trial.report(pl_module.val_loss, trainer.global_step)
        if trainer.global_step < trainer.max_steps and self.trial.should_prune():
            raise Pruned(f"at step {trainer.global_step} of {trainer.max_steps}")


@dataclass
class Sweep:
    """A sweep's study and folder."""

    shared: SharedStudy
    folder: Path
    given: list[str]  # overrides for every trial
    varied: list[str]  # keys that the space varies

    def train_all(self) -> None:
        """Train trials until none is left, with a line before and after each."""
        while claimed := self.shared.claim():
            began = time.monotonic()
            say(f"trial {claimed.trial.number}: {' '.join(claimed.overrides)}")
            try:
                self.train(claimed)
            finally:
                claimed.lock.release()
            say(self.progress(claimed.trial.number, time.monotonic() - began))
            write_csv(self.folder / "sweep.csv", self.rows(), self.varied)

    def train(self, claimed: ClaimedTrial) -> None:
        """Train a trial, or continue it, and record the result in the study. An error fails the trial alone; OSError is
        raised, because a full disk would fail all trials that follow."""
        trial, folder = claimed.trial, self.folder / str(claimed.trial.number)
        overrides = [*self.given, *claimed.overrides]
        (folder / ENDED).unlink(missing_ok=True)
        name = f"{trial.number} {' '.join(map(short, claimed.overrides))}"
        info = RunInfo(folder, overrides, "", self.folder.name, name)
        resume = ["resume=auto"] if (folder / "config.yaml").exists() else []
        config = TrainConfig()
        try:
            if trial.user_attrs["starts"] > MAX_STARTS:
                raise RunError(f"its process died {MAX_STARTS} times")
            config = compose("train", [*overrides, *resume, f"run_dir={quoted(str(folder))}"])
            summary = train(config, info, [PruningCallback(trial, folder / "metrics.csv")])
            assert summary is not None
            require(math.isfinite(summary["val_loss"]), f"the validation loss is {summary['val_loss']}")
            self.shared.study.tell(trial, summary["val_loss"])
        except Pruned as reason:
            self.shared.study.tell(trial, state=TrialState.PRUNED)
            note_end(folder, overrides, "pruned", str(reason))
        except OSError:
            raise
        except Exception as error:
            why, code = task_error(error, config)
            if code is None:
                traceback.print_exc()
            trial.set_user_attr("why", why)
            self.shared.study.tell(trial, state=TrialState.FAIL)
            note_end(folder, overrides, "failed", why, code)
            print(f"error: trial {trial.number}: {why}", file=sys.stderr)
        except (KeyboardInterrupt, SystemExit):  # by a user; not counted as a start whose process died
            trial.set_user_attr("starts", trial.user_attrs["starts"] - 1)
            raise

    def rows(self) -> list[Row]:
        """Return a row for each trial: from its folder, or from the study if it was trained on another machine."""
        rows = {row.number: row for row in runs_in(self.folder)}
        for one in self.shared.trials():
            if one.number not in rows and one.state != TrialState.WAITING:
                overrides, why = [*self.given, *one.user_attrs.get("overrides", [])], one.user_attrs.get("why", "")
                value = one.value if one.value is not None else math.nan
                state, steps = name_of(one.state), one.last_step or 0
                rows[one.number] = Row(one.number, None, overrides, state, value, steps, why=why)
            elif one.state == TrialState.RUNNING:
                rows[one.number].state = "running"
        return [rows[number] for number in sorted(rows)]

    def progress(self, number: int, seconds: float) -> str:
        """Return a line with a trial's result, the number of trials that have ended, the best, and the time left."""
        trials = self.shared.trials()
        ended = [one for one in trials if one.state.is_finished()]
        durations = [one.duration.total_seconds() for one in ended if one.duration]
        n_processes = sum(one.state == TrialState.RUNNING for one in trials) + 1
        left = (self.shared.n_trials - len(ended)) * sum(durations) / max(1, len(durations)) / n_processes
        loss = f", loss {trials[number].value:.4f}" if trials[number].value is not None else ""
        line = f"trial {number}: {name_of(trials[number].state)}{loss}, {seconds:.0f} s; "
        line += f"{len(ended)} of {self.shared.n_trials} trials"
        if any(one.state == TrialState.COMPLETE for one in ended):
            best = self.shared.study.best_trial
            line += f", best {best.value:.4f} in {best.number}"
        return line + (f"; about {left:.0f} s left" if left else "")


def search(config: SweepConfig) -> None:
    """Run the sweep that the configuration describes, resume it, or take part in it. Raise UserError, and RunError if
    all trials failed."""
    silence_lightning()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sweep, folder = open_sweep(config), info_of_job().folder
    n_trials, varied = sweep.shared.n_trials, ", ".join(sweep.varied)
    how = "every combination" if sweep.shared.is_grid else f"sampler {config.sweep.sampler}"
    say(f"{n_trials} trials of {varied} in {folder}; {how}, pruner {config.sweep.pruner}")
    if ended := sum(one.state.is_finished() for one in sweep.shared.trials()):
        say(f"{ended} of {n_trials} trials are done; continuing")
    try:
        with other_processes(config.sweep.n_jobs - 1, folder):
            sweep.train_all()
    except (KeyboardInterrupt, SystemExit):
        say(f"interrupted; the same command with run_dir={folder} continues the sweep")
        raise
    if config.sweep.n_jobs == 0:
        return
    rows = sweep.rows()
    write_report(folder, rows, sweep.varied)
    if rows and all(row.state == "failed" for row in rows):
        raise RunError(f"all {len(rows)} trials failed; trial {rows[0].number}: {rows[0].why}")


def open_sweep(config: SweepConfig) -> Sweep:
    """Check the configuration, and open the sweep's study. Raise UserError before anything is written."""
    options, folder, space = config.sweep, info_of_job().folder, read_space(config.sweep.space)
    choose("sweep.sampler", options.sampler, SAMPLERS)
    choose("sweep.pruner", options.pruner, PRUNERS)
    size = combinations(space)
    all_of_them = options.sampler == "grid" or (size is not None and size <= (options.n_trials or N_TRIALS))
    points = grid(space) if all_of_them else None
    given = [override for override in HydraConfig.get().overrides.task if not is_of_sweep(override)]
    varied = [key for dimension in space for key in dimension.config_keys()]
    for override in given:
        key = split_override(override)[0]
        require(key not in varied, f"{override}: sweep.space varies {key}; leave one of them out")
    is_grid = (folder / "multirun.yaml").exists()
    require(not is_grid, f"run_dir={folder} holds the runs of headwise train -m; give another run_dir")
    check_space(space, given, folder)
    journal = expand_path(options.storage, "sweep.storage") if options.storage else folder / "study" / "journal.log"
    require(not journal.is_dir(), f"sweep.storage={options.storage} is a folder; give a file's name")
    journal.parent.mkdir(parents=True, exist_ok=True)
    return Sweep(open_study(journal, config, space, points), folder, given, varied)


def is_of_sweep(override: str) -> bool:
    """Return whether an override is about the sweep itself, not about its runs."""
    return f"{split_override(override)[0]}.".startswith(("sweep.", "run_dir."))


def name_of(state: TrialState) -> str:
    """Return a trial's state as in sweep.csv."""
    return "failed" if state == TrialState.FAIL else state.name.lower()


def check_space(space: list[Dimension], given: list[str], folder: Path) -> None:
    """Prepare the text, and raise UserError for a choice or an end of a range that cannot be trained: neither with the
    first values of all other keys nor with their last ones."""
    config = TrainConfig()
    for place, dimension in enumerate(space):
        for end in dimension.ends():
            errors: list[UserError] = []
            for corner in ([one.ends()[i] for one in space] for i in (0, -1)):
                overrides = [override for part in (*corner[:place], end, *corner[place + 1 :]) for override in part]
                try:
                    config = compose("train", [*given, *overrides, f"run_dir={quoted(str(folder))}"])
                    validate_run(config, [*given, *overrides])
                    _, n_devices, _ = devices_of_run(config)
                    require(n_devices == 1, f"trainer.devices={n_devices}: a trial of a sweep trains on one device")
                    break
                except UserError as error:
                    errors.append(error)
            else:
                raise errors[0]
    if not config.init_from:  # with init_from the text is encoded by that model's tokenizer
        prepare(config.data, config.tokenizer)


@contextmanager
def other_processes(count: int, folder: Path) -> Iterator[None]:
    """Start further processes that take part in the sweep, and wait for them at the end of the `with` block."""
    command = [sys.executable, *sys.argv, f"run_dir={quoted(str(folder))}", "sweep.n_jobs=0"]
    if count > 0:
        os.environ["TTY_COMPATIBLE"] = "0"  # no progress bars: those of several processes overwrite each other
    processes = [subprocess.Popen(command, stdin=subprocess.DEVNULL) for _ in range(count)]
    try:
        yield
        for process in processes:
            process.wait()
    finally:
        for process in processes:
            process.terminate()  # Ctrl-C in a terminal has stopped them already
            process.wait()
