"""What happens beside training: progress, checkpoints, text samples, attention maps (numbers are in metrics.py).

Each is thin. None of them touches the model, its mode or the random state, so a run's losses are the same with
and without them, bit for bit.
"""

from __future__ import annotations

import math
import re
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from headwise.console import say
from headwise.distributed.strategies import whole_model
from headwise.files import atomic_write, write_text
from headwise.generation.generate import generate_tokens
from headwise.generation.sampling import Sampling
from headwise.inspection.recorder import Recorder
from headwise.model.gpt import eval_mode
from headwise.training.clock import Clock, Stopwatch, step_ended
from headwise.training.lightning_module import TrainingModule
from headwise.training.loggers import log_moment
from headwise.training.metrics import refuse_to_diverge

PICTURED = 50  # looks with pictures in a run, at most: W&B asks for fewer than a thousand files


class ProgressBar(Callback):
    """A bar in a terminal; elsewhere a line for each validation. Both on standard error."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self.bar: Progress | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.started, self.first = time.monotonic(), trainer.global_step
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
            assert isinstance(pl_module, TrainingModule)
            text = f"train {float(pl_module.train_loss):.3f}"
            text += "" if math.isnan(pl_module.val_loss) else f"  val {pl_module.val_loss:.3f}"
            self.bar.update(self.task, completed=trainer.global_step, description=text)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, TrainingModule)
        taken = time.monotonic() - self.started
        train = float(pl_module.train_loss)
        left = taken / max(1, trainer.global_step - self.first) * (trainer.max_steps - trainer.global_step)
        line = f"step {trainer.global_step:>6}/{trainer.max_steps}  train {train:.4f}"
        line += f"  val {pl_module.val_loss:.4f}  {taken:.0f} s, {left:.0f} s left"
        if self.bar:
            self.bar.console.print(line, highlight=False)
            self.bar.update(self.task, description=f"train {train:.3f}  val {pl_module.val_loss:.3f}")
        elif trainer.is_global_zero:
            print(line, file=sys.stderr, flush=True)

    def stop(self) -> None:
        """Give the terminal back."""
        if self.bar:
            self.bar.stop()
            self.bar = None

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.bar:
            self.bar.update(self.task, completed=trainer.global_step)
        self.stop()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self.stop()


class Checkpoints(Clock, Checkpoint):
    """best.ckpt, of the lowest validation loss, and last.ckpt: at each validation, the latter every n steps too where
    asked for; ends the run once `patience` validations in a row have brought no new best. As one of Lightning's
    checkpoint callbacks it runs after all others, so what it saves knows of the latest validation."""

    def __init__(
        self, folder: Path, every_n_steps: int | None, val_every: int, patience: int | None, stopwatch: Stopwatch
    ):
        super().__init__(every_n_steps)
        self.folder, self.validation, self.patience, self.stopwatch = folder, Clock(val_every), patience, stopwatch
        self.best, self.waited = math.inf, 0

    def state_dict(self) -> dict:
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state_dict: dict) -> None:
        self.best, self.waited = state_dict["best"], state_dict["waited"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not (self.folder / "best.ckpt").exists():  # gone on with in another folder
            self.best = math.inf
        trainer.should_stop = self.out_of_patience()  # stopped before, and interrupted before its summary

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not step_ended(trainer, batch_idx):
            trainer.should_stop = False  # a stop waits for the step's end; the time limit will ask again
        if self.due(trainer, batch_idx) and not self.validation.due(trainer, batch_idx):
            self.save(trainer, "last.ckpt")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, TrainingModule)
        better = pl_module.val_loss < self.best
        self.best, self.waited = min(self.best, pl_module.val_loss), 0 if better else self.waited + 1
        if better:
            self.save(trainer, "best.ckpt")
        self.save(trainer, "last.ckpt")
        if self.out_of_patience():
            trainer.should_stop = True
            if trainer.is_global_zero:
                say(f"step {trainer.global_step}: no better for {self.waited} validations; stopping early")

    def out_of_patience(self) -> bool:
        """Whether the run is to stop early."""
        return self.patience is not None and self.waited >= self.patience

    def save(self, trainer: L.Trainer, name: str) -> None:
        """Write a checkpoint, whole or not at all: by the first device, though all take part."""
        writing = atomic_write(self.folder / name) if trainer.is_global_zero else nullcontext(self.folder / name)
        with self.stopwatch.paused(), writing as file:
            trainer.save_checkpoint(file, weights_only=False)


class TextSamples(Clock):
    """samples.txt: how the model continues one prompt, every n steps. The same seed each time, so that what
    changes is the model."""

    def __init__(
        self,
        path: Path,
        every_n_steps: int | None,
        prompt: list[int],
        tokens: int,
        temperature: float,
        stopwatch: Stopwatch,
    ):
        super().__init__(every_n_steps)
        self.path, self.prompt, self.tokens, self.temperature = path, prompt, tokens, temperature
        self.stopwatch = stopwatch

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep what was sampled up to the step the run goes on from."""
        if not trainer.is_global_zero:
            return
        kept = {step: text for step, text in read_samples(self.path).items() if step <= trainer.global_step}
        write_text(self.path, "".join(f"==== step {step}\n{text}" for step, text in kept.items()))

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self.due(trainer, batch_idx):
            return
        assert isinstance(pl_module, TrainingModule)
        refuse_to_diverge(trainer, pl_module)
        model = whole_model(pl_module.model, trainer)
        if model is None:
            return
        eager = torch.compiler.set_stance("force_eager")  # each length would compile anew
        with self.stopwatch.paused(), eval_mode(model), eager:
            new = generate_tokens(model, [self.prompt], self.tokens, Sampling(temperature=self.temperature), [0])
            ids = [int(token) for token, _ in new]
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"==== step {trainer.global_step}\n{pl_module.tokenizer.decode(self.prompt + ids)}\n\n")


def read_samples(path: Path) -> dict[int, str]:
    """samples.txt as {step: text}."""
    written = path.read_text(encoding="utf-8") if path.exists() else ""
    _, *parts = re.split(r"^==== step (\d+)\n", written, flags=re.MULTILINE)
    return {int(step): text for step, text in zip(parts[::2], parts[1::2], strict=True)}


class AttentionMaps(Clock):
    """attention/: what the recorder sees before the first step, after 1, 4, 16, ... and every n, and at the end; the
    same in the logger. Pictures are kept few enough for any length of run."""

    def __init__(self, recorder: Recorder, every_n_steps: int | None, stopwatch: Stopwatch):
        super().__init__(every_n_steps)
        self.recorder, self.stopwatch = recorder, stopwatch

    def due_at(self, trainer: L.Trainer, step: int) -> bool:
        """At powers of four up to n, then every n; the last look has its own place, on_fit_end."""
        if self.every is None or step >= trainer.max_steps:
            return False
        power_of_four = step.bit_count() == 1 and step % 3 == 1
        return step % self.every == 0 if step >= self.every else power_of_four

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.every is None:
            return
        if trainer.is_global_zero:
            self.recorder.begin(trainer.global_step)
        if trainer.global_step == 0:
            self.record(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.due(trainer, batch_idx):
            assert isinstance(pl_module, TrainingModule)
            refuse_to_diverge(trainer, pl_module)
            self.record(trainer, pl_module)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The last look; also where the run was interrupted after its last step and this is all that is left to do."""
        if self.every is None:
            return
        assert isinstance(pl_module, TrainingModule)
        model = whole_model(pl_module.model, trainer)
        if model is None:
            return
        last = self.recorder.finish(model, trainer.global_step)
        log_moment(trainer.loggers, last.step, last.chart_values, last.pictures, self.recorder.page, last.rows)

    def record(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Record this step and pass it to the loggers in one call."""
        assert isinstance(pl_module, TrainingModule)
        model = whole_model(pl_module.model, trainer)
        if model is None:  # one device records
            return
        assert self.every is not None
        between = self.every * -(-trainer.max_steps // (self.every * PICTURED))
        pictures = trainer.global_step < self.every or trainer.global_step % between == 0
        with self.stopwatch.paused():
            snapshot = self.recorder.record(model, trainer.global_step, pictures)
            log_moment(trainer.loggers, snapshot.step, snapshot.chart_values, snapshot.pictures)
