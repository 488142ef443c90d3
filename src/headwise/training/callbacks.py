"""What a run does beside training: progress, checkpoints, early stopping, text samples, attention maps.

No callback changes the model, its mode or the random state: a run's losses are the same with and without them, bit for
bit. Steps are optimizer steps, Lightning's global step.
"""

from __future__ import annotations

import math
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.callbacks import EarlyStopping as LightningEarlyStopping
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from headwise.config import SamplesConfig
from headwise.console import say
from headwise.files import atomic_write, write_text
from headwise.generation.generate import generate_tokens
from headwise.generation.sampling import Sampling
from headwise.inspection.recorder import Recorder
from headwise.model.gpt import GPT, eval_mode, uncompiled
from headwise.model.sharding import gather_model
from headwise.training.lightning_module import TrainingModule, step_ended
from headwise.training.loggers import log_samples, log_step

MAX_PICTURES = 50  # snapshots of a run that are drawn: W&B asks for fewer than a thousand files


class EveryNSteps(Callback):
    """Callback that runs `on_nth_step` after every n-th optimizer step and after the last, or never if n is None."""

    def __init__(self, every_n_steps: int | None):
        self.every_n_steps = every_n_steps

    def is_due_at(self, step: int, max_steps: int) -> bool:
        """Return whether the callback runs after this step."""
        return self.every_n_steps is not None and (step % self.every_n_steps == 0 or step == max_steps)

    def is_due(self, trainer: L.Trainer, batch_idx: int) -> bool:
        """Return whether the callback runs at the end of this batch."""
        return step_ended(trainer, batch_idx) and self.is_due_at(trainer.global_step, trainer.max_steps)

    def is_drawn_at(self, step: int, max_steps: int) -> bool:
        """Return whether this is one of at most MAX_PICTURES steps, spread over the run, or the last."""
        assert self.every_n_steps is not None
        between = self.every_n_steps * -(-max_steps // (self.every_n_steps * MAX_PICTURES))
        return step % between == 0 or step == max_steps

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, TrainingModule)
        if self.is_due(trainer, batch_idx):
            self.on_nth_step(trainer, pl_module)

    def on_nth_step(self, trainer: L.Trainer, module: TrainingModule) -> None:
        """Act on this step; subclasses override it."""


class Stopwatch:
    """Measure the seconds of training: wall time from start to stop, without the blocks in `paused`."""

    def __init__(self) -> None:
        self.seconds_before = 0.0  # until it was stopped last
        self.started: float | None = None  # time.perf_counter() when it was started last; None while stopped

    @property
    def seconds(self) -> float:
        """Return the seconds so far."""
        return self.seconds_before + (0.0 if self.started is None else time.perf_counter() - self.started)

    def start(self) -> None:
        """Start or continue, unless it is running."""
        self.started = self.started or time.perf_counter()

    def stop(self) -> None:
        """Stop until the next start."""
        self.seconds_before, self.started = self.seconds, None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop for the length of a `with` block."""
        was_running = self.started is not None
        self.stop()
        yield
        if was_running:
            self.start()


class ProgressBar(Callback):
    """Show a progress bar in a terminal, and print a line at each validation, both on standard error."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self.bar: Progress | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.start_time, self.first_step = time.monotonic(), trainer.global_step
        if self.console.is_terminal and trainer.is_global_zero:
            losses = TextColumn("{task.description}")
            columns = [MofNCompleteColumn(), BarColumn(bar_width=20), TimeRemainingColumn(), losses]  # in 80 columns
            self.bar = Progress(*columns, console=self.console)
            self.task = self.bar.add_task("", total=trainer.max_steps, completed=trainer.global_step)
            self.bar.start()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.bar and trainer.global_step % 10 == 0:
            self.update(trainer, pl_module)

    def update(self, trainer: L.Trainer, module: Any) -> None:
        """Show the step and the latest losses in the bar."""
        assert self.bar
        losses = f"train {float(module.train_loss):.3f}"
        losses += "" if math.isnan(module.val_loss) else f"  val {module.val_loss:.3f}"
        self.bar.update(self.task, completed=trainer.global_step, description=losses)

    @rank_zero_only
    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        seconds = time.monotonic() - self.start_time
        left = seconds / max(1, trainer.global_step - self.first_step) * (trainer.max_steps - trainer.global_step)
        line = f"step {trainer.global_step:>6}/{trainer.max_steps}  train {float(pl_module.train_loss):.4f}"
        line += f"  val {pl_module.val_loss:.4f}  {seconds:.0f} s, {left:.0f} s left"
        if self.bar:
            self.bar.console.print(line, highlight=False)
            self.update(trainer, pl_module)
        else:
            print(line, file=sys.stderr, flush=True)

    def stop(self) -> None:
        """Remove the bar from the terminal."""
        if self.bar:
            self.bar.stop()
            self.bar = None

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.bar:
            self.bar.update(self.task, completed=trainer.global_step)
        self.stop()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self.stop()


class EarlyStopping(LightningEarlyStopping):
    """Lightning's EarlyStopping on val_loss. A stopped run stays stopped when it is resumed, unless `patience` is
    raised; None never stops."""

    def __init__(self, patience: int | None):
        super().__init__("val_loss", patience=patience or sys.maxsize, check_on_train_epoch_end=False)

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict | {"patience": self.patience})  # which the user may have changed

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.should_stop = self.wait_count >= self.patience  # stopped, and then interrupted before its summary

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        if self.wait_count >= self.patience:
            say(f"step {trainer.global_step}: no better for {self.wait_count} validations; stopping early")


class Checkpoints(EveryNSteps, Checkpoint):
    """Write best.ckpt, of the lowest validation loss, and last.ckpt: at each validation, the latter every n steps too.
    As one of Lightning's checkpoint callbacks it runs after all others, and saves their state after the validation."""

    def __init__(self, folder: Path, every_n_steps: int | None, val_every: int, stopwatch: Stopwatch):
        super().__init__(every_n_steps)
        self.folder, self.validation, self.stopwatch = folder, EveryNSteps(val_every), stopwatch
        self.best = math.inf

    def state_dict(self) -> dict:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict) -> None:
        self.best = state_dict["best"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not (self.folder / "best.ckpt").exists():  # resumed from a run in another folder
            self.best = math.inf
            if trainer.early_stopping_callback:
                trainer.early_stopping_callback.best_score = torch.tensor(math.inf)

    def is_due(self, trainer: L.Trainer, batch_idx: int) -> bool:
        if not step_ended(trainer, batch_idx):
            trainer.should_stop = False  # a stop waits for the step's end; the time limit will ask again
        return super().is_due(trainer, batch_idx) and not self.validation.is_due(trainer, batch_idx)

    def on_nth_step(self, trainer: L.Trainer, module: TrainingModule) -> None:
        self.save(trainer, "last.ckpt")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, TrainingModule)
        if pl_module.val_loss < self.best:
            self.best = pl_module.val_loss
            self.save(trainer, "best.ckpt")
        self.save(trainer, "last.ckpt")

    def save(self, trainer: L.Trainer, name: str) -> None:
        """Write a checkpoint, whole or not at all. All devices take part, and the first writes."""
        writing = atomic_write(self.folder / name) if trainer.is_global_zero else nullcontext(self.folder / name)
        with self.stopwatch.paused(), writing as file:
            trainer.save_checkpoint(file, weights_only=False)


class TextSamples(EveryNSteps):
    """Write to samples.txt how the model continues one prompt, every n steps, always with the same seed."""

    def __init__(self, path: Path, config: SamplesConfig, prompt: list[int], stopwatch: Stopwatch):
        super().__init__(config.every_n_steps)
        self.path, self.config, self.prompt, self.stopwatch = path, config, prompt, stopwatch

    @rank_zero_only
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remove samples of later steps than the one to resume from."""
        samples = {step: text for step, text in read_samples(self.path).items() if step <= trainer.global_step}
        write_text(self.path, "".join(f"==== step {step}\n{text}" for step, text in samples.items()))

    def on_nth_step(self, trainer: L.Trainer, module: TrainingModule) -> None:
        module.raise_if_diverged()
        model, tokenizer = gather_model(module.model, trainer.is_global_zero), module.tokenizer
        if model is None or tokenizer is None:
            return
        sampling = Sampling(temperature=self.config.temperature)
        with self.stopwatch.paused(), eval_mode(model), uncompiled():  # or each length would be compiled
            new = generate_tokens(model, [self.prompt], self.config.tokens, sampling, [0])
            ids = [int(token) for token, _ in new]
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"==== step {trainer.global_step}\n{tokenizer.decode(self.prompt + ids)}\n\n")
        if self.is_drawn_at(trainer.global_step, trainer.max_steps):
            log_samples(trainer.loggers, trainer.global_step, tokenizer.decode(self.prompt), read_samples(self.path))


def read_samples(path: Path) -> dict[int, str]:
    """Return the contents of samples.txt as {step: text}."""
    written = path.read_text(encoding="utf-8") if path.exists() else ""
    _, *parts = re.split(r"^==== step (\d+)\n", written, flags=re.MULTILINE)
    return {int(step): text for step, text in zip(parts[::2], parts[1::2], strict=True)}


class AttentionMaps(EveryNSteps):
    """Take snapshots of the attention with a Recorder, and pass them to the loggers: before the first step, after 1, 4,
    16, ... up to n, then every n steps, and at the end. At most MAX_PICTURES of them are drawn after step n."""

    def __init__(self, recorder: Recorder, every_n_steps: int | None, stopwatch: Stopwatch):
        super().__init__(every_n_steps)
        self.recorder, self.stopwatch = recorder, stopwatch

    def is_due_at(self, step: int, max_steps: int) -> bool:
        if self.every_n_steps is None or step >= max_steps:  # the last step's is on_fit_end's
            return False
        power_of_four = step.bit_count() == 1 and step % 3 == 1  # the powers of two that are 1 modulo 3
        return step % self.every_n_steps == 0 if step >= self.every_n_steps else power_of_four

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, TrainingModule)
        if self.every_n_steps is None:
            return
        if trainer.is_global_zero:
            self.recorder.begin(trainer.global_step)
        if trainer.global_step == 0:
            self.record(trainer, pl_module.model)

    def on_nth_step(self, trainer: L.Trainer, module: TrainingModule) -> None:
        module.raise_if_diverged()
        self.record(trainer, module.model)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the last snapshot, also of a run that was interrupted after its last step."""
        assert isinstance(pl_module, TrainingModule)
        model = gather_model(pl_module.model, trainer.is_global_zero) if self.every_n_steps else None
        if model is not None:
            last = self.recorder.finish(model, trainer.global_step)
            log_step(trainer.loggers, last.step, last.chart_values, last.pictures, self.recorder.page, last.rows)

    def record(self, trainer: L.Trainer, sharded: GPT) -> None:
        """Take a snapshot on the first device, and pass it to the loggers in one call."""
        model = gather_model(sharded, trainer.is_global_zero)
        if model is None:
            return
        assert self.every_n_steps is not None
        drawn = self.is_drawn_at(trainer.global_step, trainer.max_steps)
        pictures = trainer.global_step < self.every_n_steps or drawn
        with self.stopwatch.paused():
            snapshot = self.recorder.record(model, trainer.global_step, pictures)
            log_step(trainer.loggers, snapshot.step, snapshot.chart_values, snapshot.pictures)
